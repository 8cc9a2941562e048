/** Many processes on one database: one leads at any time, whatever happens to it, and every mail goes out once. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, post, untilAll } from '../support/messages.ts'
import { type SpawnedService, spawnService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'

/** Two leases run out on the way, and five processes share what the machine has. */
const LIMIT = { timeout: 240_000 }
const LEASE_MS = 10_000
/** A lease, the second until the next process asks, and time for a busy machine. */
const SUCCESSION_MS = LEASE_MS + 20_000

type Reign = {
  readonly pid: number
  readonly since: number
  /** The last time that it asked, as seen by the watch. */
  renewedAt: number
}

type LeaderRow = { readonly name: string; readonly since: Date; readonly renewed_at: Date }

const READ_LEADER = 'select name, since, renewed_at from mail.leader'

/** Follows mail.leader through all its changes: a trigger tells of each, so none goes by unseen. */
async function watchLeader(database: TestDatabase): Promise<readonly Reign[]> {
  const reigns: Reign[] = []
  const see = ({ name, since, renewed_at }: { name: string; since: string; renewed_at: string }) => {
    const pid = Number(name.split(':').at(-1))
    const last = reigns.at(-1)
    if (last?.pid === pid && last.since === Date.parse(since)) last.renewedAt = Date.parse(renewed_at)
    else reigns.push({ pid, since: Date.parse(since), renewedAt: Date.parse(renewed_at) })
  }
  const client = new Client({ connectionString: database.url })
  await client.connect()
  database.beforeDrop(() => client.end())
  client.on('notification', ({ payload }) => see(JSON.parse(payload ?? '')))
  await client.query('listen leader_of_test')
  await client.query(`
    create function public.tell_leader() returns trigger language plpgsql as $$
    begin
      perform pg_notify('leader_of_test', row_to_json(new)::text);
      return null;
    end $$;
    create trigger tell_leader after insert or update on mail.leader
      for each row execute function public.tell_leader();
  `)
  return reigns
}

async function leaderOf({ query }: TestDatabase): Promise<LeaderRow & { pid: number }> {
  const [row] = await query<LeaderRow>(READ_LEADER)
  assert.ok(row, 'nobody leads')
  return { ...row, pid: Number(row.name.split(':').at(-1)) }
}

function untilLeads({ query }: TestDatabase, pid: number): Promise<LeaderRow> {
  return eventually(`${pid} leads`, async () => {
    const [row] = await query<LeaderRow>(READ_LEADER)
    return row?.name.endsWith(`:${pid}`) && row
  })
}

/** Resolves when somebody else than this process leads. */
function untilSucceeded(database: TestDatabase, pid: number): Promise<LeaderRow & { pid: number }> {
  return eventually(
    `another process than ${pid} leads`,
    async () => {
      const leader = await leaderOf(database)
      return leader.pid !== pid && leader
    },
    SUCCESSION_MS,
  )
}

/** Each process asks every second, and the leader's answer is written down every three. */
async function untilRenewed(database: TestDatabase, reigns: readonly Reign[], pid: number): Promise<void> {
  const from = (await leaderOf(database)).renewed_at.getTime()
  await eventually(`${pid} renews its lease twice`, async () => {
    const last = reigns.at(-1)
    return last?.pid === pid && last.renewedAt >= from + 6_000
  })
}

/** The first API leads, since nobody else is there when it asks. */
async function startFleet(t: TestContext, database: TestDatabase, smtpUrl: string) {
  const spawn = (roles: string) => spawnService(t, database.url, { SMTP_URL: smtpUrl, SLUICE_ROLES: roles })
  const first = await spawn('api')
  await untilLeads(database, first.pid)
  const others = await Promise.all(['api', 'worker', 'worker', 'worker'].map(spawn))
  return { first, others, second: others[0] as SpawnedService }
}

test(
  'of five processes one leads at any time: another takes over from one that is killed or stopped, and every mail goes out once',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const reigns = await watchLeader(database)
    const { first, others, second } = await startFleet(t, database, sink.url)
    const ids = [await post(first), await post(second), ...(await insertMany(database, 200))]
    await untilRenewed(database, reigns, first.pid)

    // An API process sends nothing, so its death in the middle of the mail is no reason for a duplicate.
    process.kill(first.pid, 'SIGKILL')
    await first.ended
    ids.push(await post(second), ...(await insertMany(database, 200)))
    const heir = await untilSucceeded(database, first.pid)
    const stopped = others.find(({ pid }) => pid === heir.pid)
    assert.ok(stopped, `${heir.name} is none of the processes that live`)

    process.kill(stopped.pid, 'SIGSTOP')
    t.after(() => stopped.process.kill('SIGCONT'))
    ids.push(...(await insertMany(database, 200)))
    const last = await untilSucceeded(database, stopped.pid)
    process.kill(stopped.pid, 'SIGCONT')
    // It asks each second from now on, and is told each time that another leads.
    await untilRenewed(database, reigns, last.pid)

    ids.push(await post(second))
    await untilAll(database, ids.length, 'sent')
    assert.deepEqual(sink.mails.map(sluiceIdOf).toSorted(), ids.toSorted())
    assert.deepEqual(
      reigns.map(({ pid }) => pid),
      [first.pid, stopped.pid, last.pid],
    )
    for (const [index, reign] of reigns.entries()) {
      const before = reigns[index - 1]
      if (before === undefined) continue
      const gapMs = reign.since - before.renewedAt
      assert.ok(gapMs >= LEASE_MS, `${reign.pid} led ${gapMs} ms after ${before.pid} had last asked`)
    }
    assert.ok(others.every(({ process: { exitCode } }) => exitCode === null))
  },
)

test('a leader that ends by SIGTERM gives the lead away without a wait', LIMIT, async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const reigns = await watchLeader(database)
  const first = await spawnService(t, database.url, { SMTP_URL: sink.url })
  await untilLeads(database, first.pid)
  const next = await spawnService(t, database.url, { SMTP_URL: sink.url })
  process.kill(first.pid, 'SIGTERM')
  assert.equal(await first.ended, 0)
  const after = await untilLeads(database, next.pid)
  const lastAskedAt = reigns.find(({ pid }) => pid === first.pid)?.renewedAt
  assert.ok(lastAskedAt !== undefined)
  const gapMs = after.since.getTime() - lastAskedAt
  assert.ok(gapMs < LEASE_MS, `${gapMs} ms after the first had last asked`)
})
