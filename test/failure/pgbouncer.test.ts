/** Everything through PgBouncer in transaction mode, but for the sessions that have to be held. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { examine } from '../../src/doctor/examine.ts'
import { assertFinding } from '../doctor/findings.ts'
import { createTestDatabase, type TestDatabase, withDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { assertAlive } from '../support/killable-postgres.ts'
import { insertMany, post, untilAll } from '../support/messages.ts'
import { createPooledUser, pgbouncerObstacle, startPgBouncer } from '../support/pgbouncer.ts'
import { orderMail, type SpawnedService, spawnService, startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { copiesOf, duplicatesIn, sluiceIdOf } from '../support/sunk-mail.ts'

const obstacle = pgbouncerObstacle()
const LIMIT = { timeout: 120_000, skip: obstacle ?? false }

type Pooled = { readonly database: TestDatabase; readonly sessionUrl: string }

async function createPooled(t: TestContext): Promise<Pooled> {
  const database = await createTestDatabase(t)
  return { database, sessionUrl: await createPooledUser(database) }
}

/** Fewer server connections than the processes have of their own: they have to share. */
const POOL_SIZE = 5

test(
  'through PgBouncer a thousand mails go out, and those of a worker that is killed go out by another',
  LIMIT,
  async (t) => {
    const { database, sessionUrl } = await createPooled(t)
    const pooler = await startPgBouncer(t, { url: sessionUrl, poolSize: POOL_SIZE })
    const stalled: string[] = []
    const released = Promise.withResolvers<undefined>()
    let taken = 0
    const doomedSink = await startSmtpSink(t, {
      onMail: (mail) => {
        taken += 1
        if (taken <= 200) return undefined
        stalled.push(sluiceIdOf(mail))
        return released.promise
      },
    })
    const sink = await startSmtpSink(t)
    const spawn = (roles: string, smtp: string) =>
      spawnService(t, pooler.url, {
        SLUICE_SESSION_DATABASE_URL: sessionUrl,
        SLUICE_ROLES: roles,
        SMTP_URL: smtp,
      })
    const api = await spawn('api', doomedSink.url)
    const doomed = await spawn('worker', doomedSink.url)
    const byRest = await Promise.all(Array.from({ length: 100 }, () => post(api)))
    const bySql = await insertMany(database, 900)
    await doomedSink.waitForMails(200)
    await eventually('all its slots are in the middle of a send', async () => stalled.length === 20)
    const other = await spawn('worker', sink.url)
    await sink.waitForMails(1)
    process.kill(doomed.pid, 'SIGKILL')
    await doomed.ended
    await untilAll(database, 1_000, 'sent')
    released.resolve(undefined)

    const mails = [...doomedSink.mails, ...sink.mails]
    const arrived = copiesOf(sink.mails)
    for (const id of copiesOf(doomedSink.mails).keys()) arrived.set(id, 1)
    assert.deepEqual([...arrived.keys()].toSorted(), [...byRest, ...bySql].toSorted())
    // Sent, and not known to be: those and no others.
    for (const id of duplicatesIn(mails)) assert.ok(stalled.includes(id), `${id} was not in flight`)
    assertAlive(api, other)
  },
)

test(
  'PgBouncer killed and started again under load costs nothing that was answered, and sends nothing twice',
  LIMIT,
  async (t) => {
    const { database, sessionUrl } = await createPooled(t)
    const pooler = await startPgBouncer(t, { url: sessionUrl, poolSize: POOL_SIZE })
    const sink = await startSmtpSink(t)
    const service = await spawnService(t, pooler.url, {
      SLUICE_SESSION_DATABASE_URL: sessionUrl,
      SMTP_URL: sink.url,
      SLUICE_ACCEPT_TIMEOUT_MS: '2000',
    })
    const ids: string[] = []
    let refused = 0
    let begun = 0
    let restarted: Promise<void> | undefined
    const restart = async () => {
      await pooler.kill()
      // Long enough for everybody to notice.
      await eventually('a request is refused', async () => refused > 0)
      await pooler.start()
    }
    const client = async () => {
      while (begun < 600) {
        begun += 1
        ids.push(await deliver(service, () => (refused += 1)))
        if (ids.length >= 300) restarted ??= restart()
      }
    }
    await Promise.all(Array.from({ length: 32 }, client))
    await restarted
    await untilAll(database, 600, 'sent')
    assert.deepEqual(sink.mails.map(sluiceIdOf).toSorted(), ids.toSorted())
    assertAlive(service)
  },
)

/** Posts one message under a key of its own until it has a durable answer. */
async function deliver(service: SpawnedService, onRefused: () => void): Promise<string> {
  const headers = { 'Idempotency-Key': randomUUID() }
  return eventually(
    'a durable answer',
    async () => {
      const answer = await service.request('/emails', { body: orderMail(), headers })
      if (answer.status === 200) {
        assert.equal(answer.headers.get('Sluice-Durability'), 'durable')
        return ((await answer.json()) as { id: string }).id
      }
      assert.equal(answer.status, 503, await answer.text())
      onRefused()
    },
    60_000,
  )
}

test('a process takes all of the REST API and SQL through two server connections', LIMIT, async (t) => {
  const { database, sessionUrl } = await createPooled(t)
  const pooler = await startPgBouncer(t, { url: sessionUrl, poolSize: 2 })
  const sink = await startSmtpSink(t)
  const service = await startTestService(
    { ...database, url: pooler.url },
    { SLUICE_SESSION_DATABASE_URL: sessionUrl, SMTP_URL: sink.url },
  )
  const mails = Array.from({ length: 5 }, (_, n) => orderMail({ to: `user${n}@example.net` }))
  const batch = await service.request('/emails/batch', { body: mails })
  assert.equal(batch.status, 200, await batch.text())
  const later = await post(service, { scheduled_at: 'in 1 hour' })
  assert.equal((await service.request(`/emails/${later}/cancel`, { method: 'POST' })).status, 200)
  assert.equal((await service.request('/emails?limit=2')).status, 200)
  assert.equal((await service.request('/stats')).status, 200)
  await sink.waitForMails(5)
  const [state] = await database.query<{ servers: number }>(
    `select count(*)::integer as servers from pg_stat_activity where usename = $1 and application_name = 'sluice'`,
    [new URL(sessionUrl).username],
  )
  assert.deepEqual(state, { servers: 2 })
})

const refusals: readonly {
  readonly what: string
  readonly says: RegExp
  environment(pooled: Pooled): Record<string, string>
  prepare?(pooled: Pooled, user: string): Promise<unknown>
}[] = [
  {
    what: 'no URL for what needs a session',
    environment: () => ({}),
    says: /pooler in transaction mode.*set SLUICE_SESSION_DATABASE_URL/s,
  },
  {
    what: 'commits that do not wait for the disk',
    environment: ({ sessionUrl }) => ({ SLUICE_SESSION_DATABASE_URL: sessionUrl }),
    prepare: ({ database }, user) =>
      database.query(`alter role ${user} in database ${nameOf(database)} reset all`),
    says: /run "alter role pooled_\w+ in database \w+ set synchronous_commit = 'on'"/,
  },
  {
    what: 'more rights than the service should have',
    environment: ({ sessionUrl }) => ({ SLUICE_SESSION_DATABASE_URL: sessionUrl }),
    prepare: ({ database }, user) => database.query(`grant mail_owner to ${user}`),
    says: /run "alter role pooled_\w+ in database \w+ set role = 'mail_service'"/,
  },
  {
    what: 'fewer rights than the service needs',
    environment: ({ database }) => ({ SLUICE_SESSION_DATABASE_URL: database.url }),
    prepare: ({ database }, user) => database.query(`revoke mail_service from ${user}`),
    says: /run "grant mail_service to pooled_\w+"/,
  },
  {
    what: 'a session URL of another database',
    environment: ({ database }) => ({
      SLUICE_SESSION_DATABASE_URL: withDatabase(database.url, otherOf(database)),
    }),
    prepare: ({ database }) => database.query(`create database ${otherOf(database)}`),
    says: /lead to different databases/,
  },
]

function nameOf({ url }: TestDatabase): string {
  return new URL(url).pathname.slice(1)
}

function otherOf(database: TestDatabase): string {
  return `${nameOf(database)}_other`
}

for (const { what, says, environment, prepare } of refusals) {
  test(`a pooler with ${what} is refused at start, with what to do`, LIMIT, async (t) => {
    const pooled = await createPooled(t)
    const { database, sessionUrl } = pooled
    database.beforeDrop(() => database.query(`drop database if exists ${otherOf(database)} with (force)`))
    await prepare?.(pooled, new URL(sessionUrl).username)
    const pooler = await startPgBouncer(t, { url: sessionUrl })
    const started = spawnService(t, pooler.url, { ...environment(pooled), SMTP_URL: 'smtp://127.0.0.1:1' })
    await assert.rejects(started, (error: Error) => {
      assert.match(error.message, /ended with 78/)
      assert.match(error.message, says)
      return true
    })
    // What was refused left nothing locked behind in a connection of the pooler.
    assert.deepEqual(
      await database.query(
        "select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())",
      ),
      [],
    )
  })
}

test(
  'with mail_service for its role from the login on, an owner may stand behind the pooler',
  LIMIT,
  async (t) => {
    const { database, sessionUrl } = await createPooled(t)
    const user = new URL(sessionUrl).username
    await database.query(`grant mail_owner to ${user}`)
    await database.query(`alter role ${user} in database ${nameOf(database)} set role = 'mail_service'`)
    const pooler = await startPgBouncer(t, { url: sessionUrl })
    const sink = await startSmtpSink(t)
    const service = await startTestService(
      { ...database, url: pooler.url },
      { SLUICE_SESSION_DATABASE_URL: sessionUrl, SMTP_URL: sink.url },
    )
    await post(service)
    await sink.waitForMails(1)
  },
)

test('doctor tells a pooler that is sound from one that is not', LIMIT, async (t) => {
  const { database, sessionUrl } = await createPooled(t)
  const pooler = await startPgBouncer(t, { url: sessionUrl })
  const pooled = { DATABASE_URL: pooler.url, SLUICE_SESSION_DATABASE_URL: sessionUrl }
  const sound = await examine(pooled)
  assertFinding(sound, 'pooler', 'ok', /commits, rights and limits of pooled_\w+ are as they should be/)
  assertFinding(sound, 'pooler', 'ok', /the server itself answers/)
  const alone = await examine({ DATABASE_URL: pooler.url })
  assertFinding(alone, 'pooler', 'problem', /transaction mode stands in between/)
  const swapped = await examine({ DATABASE_URL: sessionUrl, SLUICE_SESSION_DATABASE_URL: pooler.url })
  assertFinding(swapped, 'pooler', 'problem', /transaction mode stands in between/)

  const user = new URL(sessionUrl).username
  await database.query(`alter role ${user} in database ${nameOf(database)} reset all`)
  await pooler.kill()
  await pooler.start()
  const unsound = await examine(pooled)
  assertFinding(unsound, 'pooler', 'problem', /commits do not wait for the disk/)
  assertFinding(unsound, 'pooler', 'warning', /no statement_timeout/)
  assertFinding(unsound, 'pooler', 'warning', /no idle_in_transaction_session_timeout/)

  const polite = await startPgBouncer(t, { url: sessionUrl, mode: 'session' })
  assertFinding(
    await examine({ DATABASE_URL: polite.url }),
    'pooler',
    'warning',
    /leaves a connection its server/,
  )
  const other = withDatabase(database.url, otherOf(database))
  await database.query(`create database ${otherOf(database)}`)
  database.beforeDrop(() => database.query(`drop database ${otherOf(database)} with (force)`))
  const elsewhere = await examine({ DATABASE_URL: pooler.url, SLUICE_SESSION_DATABASE_URL: other })
  assertFinding(elsewhere, 'pooler', 'problem', /lead to different databases/)
})
