/** Mail that goes from processing to dispatch from hand to hand (see src/queue/outlets.ts). */
import assert from 'node:assert/strict'
import { describe, type TestContext, test } from 'node:test'
import { sql } from 'kysely'
import { readCatalog } from '../../src/catalog.ts'
import { MACHINE_CLOCK } from '../../src/database-clock.ts'
import { openPool } from '../../src/db/pool.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { type DispatchDeps, Dispatcher } from '../../src/dispatch/dispatcher.ts'
import type { Outcome } from '../../src/dispatch/settler.ts'
import type { Transport } from '../../src/dispatch/transport.ts'
import { createLog } from '../../src/log.ts'
import { Meter } from '../../src/meter.ts'
import { deadRow, storeProcessed } from '../../src/processing/store-queries.ts'
import { Outlets, type Passage } from '../../src/queue/outlets.ts'
import { dispatchQueue } from '../../src/queue/queues.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, post, readMessage, untilAll, untilStatus } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const QUEUE = dispatchQueue('default', 'transactional')

/** A service whose relay answers to content only when the test lets it. */
async function startHolding(t: TestContext, changes = '') {
  const database = await createTestDatabase(t)
  if (changes !== '') await database.query(changes)
  let gate = Promise.withResolvers<undefined>()
  const sink = await startSmtpSink(t, { onMail: () => gate.promise })
  const service = await startTestService(database, { SMTP_URL: sink.url })
  // Before the service stops, which waits for what is being sent.
  database.beforeDrop(async () => gate.resolve(undefined))
  return {
    ...{ database, service, sink },
    open: () => gate.resolve(undefined),
    close: () => {
      gate = Promise.withResolvers()
    },
  }
}

/** Whether the transaction that made the message ready has claimed it, too. */
async function isHanded({ query }: TestDatabase, id: string): Promise<boolean | undefined> {
  const [row] = await query<{ is_handed: boolean }>(
    `select m.xmin = e.xmin as is_handed
     from mail.message m join mail.event e on e.message_id = m.id and e.type = 'queued'
     where m.id = $1 and m.status = 'sending'`,
    [id],
  )
  return row?.is_handed
}

async function jobStateOf({ query }: TestDatabase, id: string): Promise<string | undefined> {
  const [job] = await query<{ state: string }>('select state from pgboss.job where id = $1 and name = $2', [
    id,
    QUEUE,
  ])
  return job?.state
}

test('mail for a provider that has nothing to do is claimed where it is made ready', async (t) => {
  const { database, service, open, close } = await startHolding(t)
  let isFound = false
  // The dispatcher may be looking at its queue at that very moment, and then the mail waits there.
  for (let n = 0; n < 50 && !isFound; n += 1) {
    close()
    const id = await post(service)
    await untilStatus(database, id, 'sending')
    isFound = (await isHanded(database, id)) === true
    if (isFound) assert.equal(await jobStateOf(database, id), 'active')
    open()
    assert.equal((await untilStatus(database, id, 'sent')).attempts, 1)
    assert.equal(await jobStateOf(database, id), undefined)
  }
  assert.ok(isFound)
})

test('a dispatcher without a free slot gets none: it waits in the queue', async (t) => {
  const { database, service, sink, open } = await startHolding(
    t,
    "update mail.stream set slots = 1 where name = 'transactional'",
  )
  const first = await post(service)
  await untilStatus(database, first, 'sending')
  const second = await post(service)
  await untilStatus(database, second, 'queued')
  assert.equal(await jobStateOf(database, second), 'created')
  open()
  await untilAll(database, 2, 'sent')
  assert.equal(sink.mails.length, 2)
})

test('where a person settles what was unknown, nothing is claimed before it is its turn', async (t) => {
  const { database, service, open } = await startHolding(
    t,
    "update mail.stream set on_unknown = 'hold' where name = 'transactional'",
  )
  const id = await post(service)
  await untilStatus(database, id, 'sending')
  assert.equal(await isHanded(database, id), false)
  open()
  await untilStatus(database, id, 'sent')
})

test('while nothing may be sent it waits, and goes out when it may', async (t) => {
  const { database, service, open } = await startHolding(t)
  open()
  await database.query("select mail.hold('restored')")
  const id = await post(service)
  await untilStatus(database, id, 'queued')
  assert.equal(await jobStateOf(database, id), 'created')
  await database.query("select mail.release('send')")
  assert.equal((await untilStatus(database, id, 'sent')).attempts, 1)
})

test('a message whose recipient was suppressed at that moment is not claimed', async (t) => {
  const { database, open, sink, service } = await startHolding(t)
  open()
  // Between the look-up of processing and the claim.
  await database.query(
    `create function suppress_now() returns trigger language plpgsql as $$
     begin
       perform mail.suppress('late@example.net');
       return null;
     end $$;
     create trigger suppress_now after update of status on mail.message
     for each statement execute function suppress_now()`,
  )
  const id = await post(service, { to: 'late@example.net' })
  await untilStatus(database, id, 'suppressed')
  assert.equal(await jobStateOf(database, id), undefined)
  assert.equal(sink.mails.length, 0)
})

test('a message whose old job is still in the queue waits there', async (t) => {
  const { database, db, ids } = await prepare(t, 1)
  const [id = ''] = ids
  await database.query("update mail.message set status = 'accepted'")
  const row = {
    ...deadRow(id, '', ''),
    status: 'queued',
    provider: 'default',
    code: null,
    reason: null,
  } as const
  const { ids: stored, jobs } = await inTransaction(db, (trx) =>
    storeProcessed(trx, [row], { isFetched: true }),
  )
  assert.deepEqual([[...stored], jobs], [ids, []])
  assert.equal(await jobStateOf(database, id), 'created')
})

describe('a dispatcher', () => {
  test('keeps as many slots as were asked for, and no more than it has', async (t) => {
    const { outlets, slots } = await prepare(t, 1)
    const passages: (Passage | undefined)[] = Array.from({ length: slots }, () => outlets.reserve(QUEUE, 1))
    assert.ok(!passages.includes(undefined))
    assert.equal(outlets.reserve(QUEUE, 1), undefined)
    passages.pop()?.end('committed')
    passages.push(outlets.reserve(QUEUE, 1))
    assert.ok(!passages.includes(undefined))
    for (const passage of passages) passage?.end('committed')
    assert.equal(outlets.reserve(QUEUE, 11), undefined)
    assert.equal(outlets.reserve(dispatchQueue('default', 'nobody'), 1), undefined)
  })

  for (const isCommitted of [true, false]) {
    const outcome = isCommitted ? 'is sent once when it was committed' : 'is nobody’s when it was not'
    test(`finds out about a claim whose commit had no answer: it ${outcome}`, async (t) => {
      const { dispatcher, outlets, db, ids, sent, database } = await prepare(t, 2)
      const [id = ''] = ids
      const passage = outlets.reserve(QUEUE, 1)
      assert.ok(passage !== undefined)
      const claiming = inTransaction(db, async (trx) => {
        await sql`update pgboss.job set state = 'active', started_on = now() where id = ${id}`.execute(trx)
        await passage.claim(trx, [id])
        if (!isCommitted) throw new Error('rolled back')
      })
      await claiming.catch(() => undefined)
      passage.end('failed')
      dispatcher.loop.start()
      // The other one is found in the queue, after the doubt is over.
      await eventually('the dispatcher has looked', async () => sent.length >= 2)
      assert.deepEqual(sent.toSorted(), ids.toSorted())
      assert.equal((await readMessage(database, id))?.attempts, 1)
    })
  }

  test('takes nothing from hand to hand for a while after that has failed', async (t) => {
    const { outlets } = await prepare(t, 1)
    outlets.reserve(QUEUE, 1)?.end('failed')
    assert.equal(outlets.reserve(QUEUE, 1), undefined)
  })

  test('puts the jobs back into the queue while nothing may be sent', async (t) => {
    const { database, outlets, db, ids, sent } = await prepare(t, 1)
    await database.query("select mail.hold('restored')")
    const [id = ''] = ids
    const passage = outlets.reserve(QUEUE, 1)
    await inTransaction(db, async (trx) => {
      await sql`update pgboss.job set state = 'active', started_on = now() where id = ${id}`.execute(trx)
      await passage?.claim(trx, ids)
    })
    passage?.end('committed')
    assert.equal(await jobStateOf(database, id), 'created')
    assert.equal((await readMessage(database, id))?.status, 'queued')
    assert.deepEqual(sent, [])
  })

  test('that is being stopped waits for what was promised', async (t) => {
    const { dispatcher, outlets, db, ids, sent } = await prepare(t, 1)
    const passage = outlets.reserve(QUEUE, 1)
    let isStopped = false
    const stopping = dispatcher.stop(AbortSignal.timeout(60_000)).then(() => {
      isStopped = true
    })
    assert.equal(outlets.reserve(QUEUE, 1), undefined)
    await inTransaction(db, async (trx) => passage?.claim(trx, ids))
    assert.equal(isStopped, false)
    passage?.end('committed')
    await stopping
    assert.deepEqual(sent, ids)
  })
})

/** A dispatcher that was not started, over a transport that notes what it is given, and mail that waits for it. */
async function prepare(t: TestContext, messages: number) {
  const database = await createTestDatabase(t)
  await database.query("select mail.pause('transactional')")
  const service = await startTestService(database, { SMTP_URL: 'smtp://127.0.0.1:9' })
  const ids = await insertMany(database, messages)
  await untilAll(database, messages, 'queued')
  await service.stop()
  await database.query("select mail.resume('transactional')")
  const log = createLog('silent')
  const { db, close } = openPool({ url: database.url, maxConnections: 3, role: undefined, log })
  database.beforeDrop(close)
  const [worker] = await database.query<{ number: number }>(
    "insert into mail.worker (name) values ('test') returning number",
  )
  const current = await readCatalog(db)
  const sent: string[] = []
  const outlets = new Outlets()
  const deps = {
    ...{ db, log, outlets, meter: new Meter(), clock: MACHINE_CLOCK },
    bells: { attach: () => undefined },
    catalog: { current },
    lifeline: { noteClaims: () => undefined },
    settler: { backlog: 0, add: ({ settlement }: Outcome) => sent.push(settlement.id) },
    health: { note: async () => undefined },
    worker: () => worker?.number ?? 0,
    holds: () => true,
    random: () => 0,
  } as unknown as DispatchDeps
  const transport = {
    send: async () => ({ kind: 'accepted', reply: '250 ok', refused: [] }),
  } as unknown as Transport
  const dispatcher = new Dispatcher(deps, 'default', 'transactional', () => transport)
  database.beforeDrop(() => dispatcher.stop(AbortSignal.timeout(10_000)))
  return {
    database,
    dispatcher,
    outlets,
    db,
    ids,
    sent,
    slots: current.streams.get('transactional')?.slots ?? 0,
  }
}
