/** Limits per recipient domain: how much goes at once, and what happens to the rest. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { KyselyPlugin } from 'kysely'
import { type Catalog, readCatalog } from '../../src/catalog.ts'
import { MACHINE_CLOCK } from '../../src/database-clock.ts'
import { openPool } from '../../src/db/pool.ts'
import { claimMail } from '../../src/dispatch/claims.ts'
import { createLog } from '../../src/log.ts'
import { Meter } from '../../src/meter.ts'
import { startBoss } from '../../src/queue/boss.ts'
import { QueueFront } from '../../src/queue/queue-front.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, readMessage, untilAll, untilStatus } from '../support/messages.ts'
import { addProvider, variableOf } from '../support/pacing.ts'
import { orderMail, startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { mostInWindow } from '../support/windows.ts'

const MARKETING = { stream: 'marketing' }

async function insertTo({ query }: TestDatabase, domain: string, count: number, stream = 'marketing') {
  const rows = await query<{ id: string }>(
    `insert into mail.outbox (message, stream)
     select ($1::jsonb || jsonb_build_object('to', 'user' || n || '@' || $2))::json, $4
     from generate_series(1, $3::integer) n
     returning id`,
    [JSON.stringify(orderMail()), domain, count, stream],
  )
  return rows.map(({ id }) => id)
}

async function limit({ query }: TestDatabase, domain: string, settings: Readonly<Record<string, unknown>>) {
  const row = { domain, ...settings }
  const columns = Object.keys(row)
  await query(
    `insert into mail.domain_limit (${columns.join(', ')}) values (${columns.map((_, index) => `$${index + 1}`).join(', ')})`,
    Object.values(row),
  )
}

/** Counts how often each message is put back. */
async function countPutBacks({ query }: TestDatabase): Promise<() => Promise<number[]>> {
  await query(`
    create table public.put_back (id uuid);
    create function public.note_put_back() returns trigger language plpgsql security definer set search_path = pg_catalog as $$
    begin
      insert into public.put_back values (new.id);
      return null;
    end $$;
    create trigger note_put_back after update on mail.message
    for each row when (new.status = 'deferred' and new.last_error = 'domain_limit') execute function public.note_put_back()`)
  return async () => {
    const rows = await query<{ times: number }>(
      'select count(*)::integer as times from public.put_back group by id',
    )
    return rows.map(({ times }) => times)
  }
}

async function claimTimes({ query }: TestDatabase, ids: readonly string[]): Promise<number[]> {
  const rows = await query<{ at: number }>(
    'select extract(epoch from claimed_at)::double precision * 1000 as at from mail.message where id = any ($1)',
    [ids],
  )
  return rows.map(({ at }) => at)
}

test('a flood to one domain goes at its limit over two workers, and mail behind it is not held up', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await limit(database, 'gmail.com', { quota: 40, burst: 10 })
  const putBacks = await countPutBacks(database)
  await database.query("select mail.pause('marketing')")
  await startTestService(database, { SMTP_URL: sink.url })
  await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
  const limited = await insertTo(database, 'Gmail.com', 300)
  const others = await insertTo(database, 'example.net', 50)
  await untilAll(database, 350, 'queued')
  await database.query("select mail.resume('marketing')")
  await untilAll(database, 350, 'sent', 60_000)

  const times = (await claimTimes(database, limited)).toSorted((a, b) => a - b)
  // Quota and burst; and a tenth, as a claim is noted a moment before its turn is decided.
  assert.ok(mostInWindow(times, 1_000) <= 55, `${mostInWindow(times, 1_000)} within a second`)
  assert.ok(mostInWindow(times, 3_000) <= 143, `${mostInWindow(times, 3_000)} within three`)
  const lastOther = Math.max(...(await claimTimes(database, others)))
  const before = times.filter((at) => at < lastOther).length
  assert.ok(before < 150, `${before} of the flood went before all of the others were through`)
  const attempts = await database.query('select distinct attempts, last_error from mail.message')
  assert.deepEqual(attempts, [{ attempts: 1, last_error: null }])
  assert.equal(sink.mails.length, 350)
  const counts = await putBacks()
  const sum = counts.reduce((total, each) => total + each, 0)
  assert.ok(sum < 300 * 1.5, `${sum} times put back, one of them ${Math.max(...counts)} times`)
  t.diagnostic(JSON.stringify({ sum, most: Math.max(...counts), second: mostInWindow(times, 1_000), before }))
})

test('why and until when is told, a change of the limit holds at once, and a canceled message stays away', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await limit(database, 'gmail.com', { quota: 2, window_s: 3_600 })
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const mails = []
  for (const _ of [1, 2, 3])
    mails.push(await post(service, { ...MARKETING, to: ['ann@gmail.com', 'bob@example.net'] }))
  const [first = '', second = '', third = ''] = mails
  await untilStatus(database, first, 'sent')
  assert.equal((await untilStatus(database, second, 'deferred')).attempts, 0)
  await untilStatus(database, third, 'deferred')
  const why = async (id: string) => {
    const [row] = await database.query<{ why: string }>('select mail.why($1) as why', [id])
    return row?.why ?? ''
  }
  assert.match(
    await why(second),
    /^Deferred until \d{4}-\S+ \S+ because mail to gmail\.com is limited to 2 an hour\. It is sent then by itself\.$/,
  )
  const queue = await database.query<{ ready: string; deferred: string }>(
    "select ready, deferred from mail.queue where stage = 'dispatch' and stream = 'marketing'",
  )
  assert.deepEqual(queue, [{ ready: '0', deferred: '2' }])
  await database.query('select mail.cancel($1)', [third])
  await database.query("update mail.domain_limit set quota = 1000, burst = 1000 where domain = 'gmail.com'")
  await untilStatus(database, second, 'sent')
  assert.equal((await readMessage(database, third))?.status, 'canceled')
  assert.equal(sink.mails.length, 2)
})

test('urgent mail goes while a flood of other streams waits for the same domain', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await limit(database, '*', { quota: 10, window_s: 60, burst: 1 })
  const service = await startTestService(database, { SMTP_URL: sink.url })
  await insertTo(database, 'gmail.com', 30)
  await eventually('the flood is put back', async () => {
    const rows = await database.query("select from mail.message where status = 'deferred'")
    return rows.length === 29
  })
  await untilStatus(database, await post(service, { to: 'ann@gmail.com' }), 'sent')
  await untilStatus(database, await post(service, { ...MARKETING, to: 'ann@example.net' }), 'sent')
  await database.query('delete from mail.domain_limit')
  await untilAll(database, 32, 'sent')
})

test('a limit of one provider does not count what goes through another', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await addProvider(database, 'one')
  await addProvider(database, 'other')
  await database.query(
    "update mail.stream set route = case name when 'alerts' then '{other}' else '{one}' end::text[]",
  )
  await limit(database, 'gmail.com', { quota: 1, window_s: 3_600, provider: 'one' })
  await startTestService(database, { [variableOf('one')]: sink.url, [variableOf('other')]: sink.url })
  const [limited, free] = [
    await insertTo(database, 'gmail.com', 5),
    await insertTo(database, 'gmail.com', 5, 'alerts'),
  ]
  for (const id of free) await untilStatus(database, id, 'sent')
  await eventually('one of the limited went', async () => {
    const rows = await database.query('select status from mail.message where id = any ($1) order by 1', [
      limited,
    ])
    return rows.map(({ status }) => status).join(' ') === 'deferred deferred deferred deferred sent'
  })
  await database.query("update mail.domain_limit set provider = 'other'")
  for (const id of limited) await untilStatus(database, id, 'sent')
})

/** Claims that note the tags of their statements, from a queue with waiting mail. */
async function prepareClaims(t: TestContext) {
  const database = await createTestDatabase(t)
  await database.query("select mail.pause('marketing')")
  const service = await startTestService(database, { SMTP_URL: 'smtp://127.0.0.1:9' })
  await insertTo(database, 'gmail.com', 4)
  await insertTo(database, 'example.net', 4)
  await untilAll(database, 8, 'queued')
  await service.stop()
  const log = createLog('silent')
  const { db, pool, close } = openPool({ url: database.url, maxConnections: 2, role: undefined, log })
  const boss = await startBoss(pool, log)
  database.beforeDrop(async () => {
    await boss.stop({ graceful: false })
    await close()
  })
  const tags: string[] = []
  const recorder: KyselyPlugin = {
    transformQuery: ({ node }) => {
      const text = node.kind === 'RawNode' ? node.sqlFragments.join('?') : node.kind
      tags.push(/\/\* (\S+) \*\//.exec(text)?.[1] ?? text)
      return node
    },
    transformResult: async ({ result }) => result,
  }
  const [worker] = await database.query<{ number: number }>(
    "insert into mail.worker (name) values ('test') returning number",
  )
  const claim = async (count: number) => {
    const current: Catalog = await readCatalog(db)
    const stream = current.streams.get('marketing')
    assert.ok(stream)
    tags.length = 0
    const front = new QueueFront(5_000)
    const taken = await claimMail(
      {
        db: db.withPlugin(recorder),
        boss,
        meter: new Meter(),
        clock: MACHINE_CLOCK,
        catalog: { current },
        lifeline: { noteClaims: () => undefined },
        worker: () => worker?.number ?? 0,
      },
      { queue: 'dispatch.default.marketing', front, look: front.begin(), provider: 'default', stream },
      count,
      () => undefined,
    )
    return { ...taken, tags: [...tags] }
  }
  return { database, claim }
}

test('a claim asks about paces only when some of its mail goes to a limited domain', async (t) => {
  const { database, claim } = await prepareClaims(t)
  const usual = ['dispatch.fetch', 'dispatch.claim', 'suppression.find']
  assert.deepEqual((await claim(1)).tags, usual)
  await limit(database, 'elsewhere.example', { quota: 1 })
  assert.deepEqual((await claim(1)).tags, usual)
  await limit(database, 'gmail.com', { quota: 1, window_s: 3_600 })
  const { claims, fetched, comesBackMs, tags } = await claim(6)
  assert.deepEqual(tags, [...usual, 'dispatch.lock_paces', 'dispatch.store_paces', 'dispatch.put_back'])
  const domains = claims.map(({ message }) => message.message.to[0]?.address.split('@')[1])
  const toGmail = domains.filter((domain) => domain === 'gmail.com')
  assert.equal(fetched, 6)
  assert.equal(toGmail.length, 1)
  assert.equal(claims.length, 5)
  assert.ok(comesBackMs > 3_600_000)
})
