import assert from 'node:assert/strict'
import { before, beforeEach, describe, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventTypesOf, readMessage } from '../support/messages.ts'
import { openSchedule, openSession, type Session } from './schedule-stage.ts'

let database: TestDatabase
let schedule: Awaited<ReturnType<typeof openSchedule>>
/** Two people at psql. */
let ann: Session
let bob: Session

const CANCEL = 'select mail.cancel($1)'
const LATER = "select mail.reschedule($1, now() + interval '1 hour')"

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  schedule = await openSchedule(database)
  ann = await openSession(database)
  bob = await openSession(database)
})

beforeEach(async () => {
  await database.query('delete from pgboss.job')
  await database.query('delete from mail.scheduled')
})

async function statusOf(id: string): Promise<string | undefined> {
  return (await readMessage(database, id))?.status
}

async function momentsOf(id: string): Promise<number> {
  return (await database.query('select from mail.scheduled where message_id = $1', [id])).length
}

describe('a cancel and a dispatcher at the same moment', () => {
  test('the dispatcher first: the cancel waits for its claim, and comes too late', async () => {
    const id = await schedule.queue()
    let canceled: Promise<string | null> = Promise.resolve(null)
    const claimed = await schedule.claim({
      afterClaim: async () => {
        canceled = ann.say(CANCEL, [id])
        await ann.untilItWaits()
      },
    })
    assert.deepEqual(claimed, [id])
    assert.equal(await canceled, 'sending')
    assert.equal(await statusOf(id), 'sending')
    assert.deepEqual(await schedule.jobs(id), ['dispatch.default.transactional'])
  })

  test('the cancel first, not committed yet: its job is not fetched, and is gone afterwards', async () => {
    const id = await schedule.queue()
    await ann.say('begin')
    assert.equal(await ann.say(CANCEL, [id]), 'canceled')
    assert.deepEqual(await schedule.claim(), [])
    await ann.say('commit')
    assert.deepEqual(await schedule.claim(), [])
    assert.equal(await statusOf(id), 'canceled')
    assert.deepEqual(await schedule.jobs(id), [])
  })

  test('the cancel between fetch and claim: neither waits for ever, nothing is sent, the job is dropped', async () => {
    const id = await schedule.queue()
    await ann.say('begin')
    const claimed = await schedule.claim({
      afterFetch: async () => {
        // The dispatcher has the job in hand: the cancel must not wait for it.
        assert.equal(await ann.say(CANCEL, [id]), 'canceled')
        await ann.say('commit')
      },
    })
    assert.deepEqual(claimed, [])
    assert.equal(await statusOf(id), 'canceled')
    assert.deepEqual(await schedule.jobs(id), [])
  })

  test('a cancel that is undone leaves the message as it was', async () => {
    const id = await schedule.queue()
    await ann.say('begin')
    await ann.say(CANCEL, [id])
    await ann.say('rollback')
    assert.deepEqual(await schedule.claim(), [id])
  })
})

describe('a cancel and a change of time at the same moment', () => {
  for (const [first, then, status, moments] of [
    [CANCEL, LATER, 'canceled', 0],
    [LATER, CANCEL, 'canceled', 0],
    [LATER, LATER, 'scheduled', 1],
    [CANCEL, CANCEL, 'canceled', 0],
  ] as const) {
    test(`${first === CANCEL ? 'cancel' : 'reschedule'}, then ${then === CANCEL ? 'cancel' : 'reschedule'}: ${status}`, async () => {
      for (const id of [await schedule.queue(), await schedule.accept({ scheduled_at: 'in 2 hours' })]) {
        await ann.say('begin')
        const one = await ann.say(first, [id])
        const other = bob.say(then, [id])
        await bob.untilItWaits()
        await ann.say('commit')
        assert.equal(one, first === CANCEL ? 'canceled' : 'scheduled')
        assert.equal(await other, status)
        assert.equal(await statusOf(id), status)
        assert.equal(await momentsOf(id), moments)
        assert.deepEqual(await schedule.jobs(id), [])
      }
    })
  }
})

describe('a change and the scheduler at the same moment', () => {
  test('a cancel first, not committed yet: the message is passed over, and gone afterwards', async () => {
    const id = await schedule.accept({ scheduled_at: 'in 1 hour' })
    await schedule.makeDue(id)
    await ann.say('begin')
    assert.equal(await ann.say(CANCEL, [id]), 'canceled')
    assert.deepEqual(await schedule.release(), [])
    await ann.say('commit')
    assert.deepEqual(await schedule.release(), [])
    assert.equal(await statusOf(id), 'canceled')
    assert.equal(await momentsOf(id), 0)
    assert.deepEqual(await schedule.jobs(id), [])
  })

  test('a cancel that only has the row yet is not waited for, nor held up for ever', async () => {
    const id = await schedule.accept({ scheduled_at: 'in 1 hour' })
    await schedule.makeDue(id)
    await ann.say('begin')
    await ann.say('select id from mail.message where id = $1 for update', [id])
    assert.deepEqual(await schedule.release(), [])
    assert.equal(await momentsOf(id), 1)
    assert.equal(await ann.say(CANCEL, [id]), 'canceled')
    await ann.say('commit')
    assert.equal(await momentsOf(id), 0)
    assert.deepEqual(await schedule.release(), [])
  })

  test('the scheduler first: the cancel still takes the message, whose job finds nothing to do', async () => {
    const id = await schedule.accept({ scheduled_at: 'in 1 hour' })
    await schedule.makeDue(id)
    assert.deepEqual(await schedule.release(), [{ id, stream: 'transactional', priority: 3 }])
    assert.equal(await ann.say(CANCEL, [id]), 'canceled')
    assert.deepEqual(await schedule.release(), [])
    assert.deepEqual(await schedule.jobs(id), ['process.transactional'])
  })

  test('a change of time first: the message waits for its new moment', async () => {
    const id = await schedule.accept({ scheduled_at: 'in 1 hour' })
    await schedule.makeDue(id)
    await ann.say('begin')
    assert.equal(await ann.say(LATER, [id]), 'scheduled')
    assert.deepEqual(await schedule.release(), [])
    await ann.say('commit')
    assert.deepEqual(await schedule.release(), [])
    assert.equal(await statusOf(id), 'scheduled')
    assert.equal(await momentsOf(id), 1)
  })

  test('two schedulers release each message once', async () => {
    const ids = []
    for (let n = 0; n < 5; n += 1) ids.push(await schedule.accept({ scheduled_at: 'in 1 hour' }))
    await Promise.all(ids.map((id) => schedule.makeDue(id)))
    const released = await Promise.all([schedule.release(), schedule.release(), schedule.release()])
    assert.deepEqual(
      released
        .flat()
        .map(({ id }) => id)
        .toSorted(),
      ids.toSorted(),
    )
    for (const id of ids) assert.deepEqual(await eventTypesOf(database, id), ['scheduled'])
  })

  test('a moment whose message is no longer there, or no longer scheduled, is dropped', async () => {
    const id = await schedule.accept()
    await database.query(
      `insert into mail.scheduled (message_id, due_at, priority, stream)
       values ($1, now() - interval '1 s', 3, 'transactional'), (gen_random_uuid(), now() - interval '1 s', 3, 'transactional')`,
      [id],
    )
    assert.deepEqual(await schedule.release(), [])
    assert.deepEqual(await database.query('select from mail.scheduled'), [])
    assert.equal(await statusOf(id), 'accepted')
  })
})

describe('mail.cancel and mail.reschedule', () => {
  test('find the job of a message wherever a failover left it', async () => {
    await database.query(
      "insert into mail.provider (name, transport) values ('backup', 'inbox') on conflict do nothing",
    )
    for (const statement of [CANCEL, LATER]) {
      const id = await schedule.queue()
      await database.query("update mail.message set status = 'deferred', provider = 'backup' where id = $1", [
        id,
      ])
      await ann.say(statement, [id])
      assert.deepEqual(await schedule.jobs(id), [])
    }
  })

  test('answer what came first, and nothing of what is not there', async () => {
    for (const status of ['sending', 'sent', 'unknown', 'dead', 'suppressed', 'bounced']) {
      const id = await schedule.accept()
      await database.query('update mail.message set status = $2, worker = 1 where id = $1', [id, status])
      assert.equal(await ann.say(CANCEL, [id]), status)
      assert.equal(await ann.say(LATER, [id]), status)
      assert.deepEqual(await eventTypesOf(database, id), ['accepted'])
    }
    const nobody = '00000000-0000-7000-8000-000000000000'
    assert.equal(await ann.say(CANCEL, [nobody]), null)
    assert.equal(await ann.say(LATER, [nobody]), null)
  })

  test('may be said twice, and then happened once', async () => {
    const id = await schedule.accept()
    const soon = new Date(Date.now() + 3_600_000).toISOString()
    for (let n = 0; n < 2; n += 1) {
      assert.equal(await ann.say('select mail.reschedule($1, $2)', [id, soon]), 'scheduled')
    }
    for (let n = 0; n < 2; n += 1) assert.equal(await ann.say(CANCEL, [id]), 'canceled')
    assert.deepEqual(await eventTypesOf(database, id), ['accepted', 'scheduled', 'canceled'])
  })

  test('take a moment within 30 days; one that has passed is now', async () => {
    const id = await schedule.accept({ scheduled_at: 'in 1 hour' })
    for (const at of [null, 'infinity', new Date(Date.now() + 31 * 86_400_000).toISOString()]) {
      await assert.rejects(ann.say('select mail.reschedule($1, $2)', [id, at]), {
        code: '22023',
        message: /at most 30 days ahead/,
      })
    }
    assert.equal(await ann.say("select mail.reschedule($1, '-infinity')", [id]), 'scheduled')
    assert.deepEqual(
      (await schedule.release()).map((released) => released.id),
      [id],
    )
  })
})
