import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { inTransaction } from '../../src/db/transaction.ts'
import { Doorbell } from '../../src/doorbell.ts'
import { within } from '../../src/queue/boss.ts'
import { Handover, Seat } from '../../src/queue/handover.ts'
import { processQueue, urgentBell } from '../../src/queue/queues.ts'
import { Rescuer } from '../../src/upkeep/rescue.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { eventTypesOf, post, untilStatus } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { intakeRow, openIntake } from './intake-stage.ts'

/** What the mover stores for a lane of its process that has nothing to do (see src/queue/handover.ts). */

const DURABLE = { mayBuffer: false, timeoutMs: 10_000 }
const STREAM = 'transactional'
const QUEUE = processQueue(STREAM)

let database: TestDatabase
let intake: Awaited<ReturnType<typeof openIntake>>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  intake = await openIntake(database)
})

type Job = {
  readonly id: string
  readonly state: string
  readonly data: { readonly ids: readonly string[] }
  readonly worker: number | null
  readonly is_leased: boolean | null
}

async function jobsWith(ids: readonly string[]): Promise<Job[]> {
  return database.query<Job>(
    `select j.id, j.state::text, j.data, c.worker, c.lease_until > now() as is_leased
     from pgboss.job j left join mail.claim c on c.queue = j.name and c.job_id = j.id
     where exists (select from jsonb_array_elements_text(j.data -> 'ids') as each (message) where each.message = any ($1))`,
    [ids],
  )
}

async function register(): Promise<number> {
  const [row] = await database.query<{ number: number }>(
    "insert into mail.worker (name) values ('here:1') returning number",
  )
  return row?.number ?? 0
}

/** A lane with nothing to do, in the place of processing's. */
function freeLane(worker: number, topic = QUEUE): { handover: Handover; seat: Seat } {
  const handover = new Handover()
  const seat = new Seat(new Doorbell(), () => worker)
  seat.isFree = true
  handover.attach(topic, seat)
  return { handover, seat }
}

/** Accepts these at one moment, so that they are one batch. */
async function accept(handover: Handover, rows: readonly ReturnType<typeof intakeRow>[]) {
  const { acceptor, mover } = intake.openDesk({ handover })
  const accepted = Promise.all(rows.map((row) => acceptor.accept(row, DURABLE)))
  mover.start()
  try {
    return await accepted
  } finally {
    await mover.stop()
  }
}

describe('a lane that has nothing to do', () => {
  test('is given the job as its own, with what it would have read', async () => {
    const worker = await register()
    const { handover, seat } = freeLane(worker)
    const rows = [intakeRow({ priority: 5 }), intakeRow({ priority: 5 })]
    await accept(handover, rows)
    const ids = rows.map(({ id }) => id)
    const [job, ...others] = await jobsWith(ids)
    assert.deepEqual(others, [])
    assert.deepEqual([job?.state, job?.worker, job?.is_leased], ['active', worker, true])
    const given = seat.take()
    assert.deepEqual([given?.id, given?.worker, job?.data.ids], [job?.id, worker, ids])
    const read = await database.query<{
      id: string
      source: string
      message: unknown
      sealed: string | null
    }>(
      'select id, m.source, c.message, c.sealed from mail.message m join mail.message_content c using (id) where id = any ($1) order by m.seq',
      [ids],
    )
    const known = given?.messages.map(({ id, source, message, sealed }) => {
      return { id, source, message: JSON.parse(message), sealed }
    })
    assert.deepEqual(known, read)
  })

  test('finds it as pg-boss leaves one that was fetched', async () => {
    const { handover, seat } = freeLane(await register())
    const row = intakeRow({ priority: 5 })
    await accept(handover, [row])
    const handed = seat.take()?.id ?? ''
    const fetched = await inTransaction(intake.db, async (trx) => {
      await intake.boss.insert(QUEUE, [{ data: { ids: [row.id] }, priority: 9 }], within(trx))
      const [job] = await intake.boss.fetch(QUEUE, { batchSize: 1, minPriority: 9, ...within(trx) })
      return job?.id ?? ''
    })
    const columns = async (id: string) => {
      const [job] = await database.query<{ job: Record<string, unknown> }>(
        'select to_jsonb(j) as job from pgboss.job j where id = $1',
        [id],
      )
      const { id: _, priority: __, ...rest } = job?.job ?? {}
      return Object.fromEntries(
        Object.entries(rest).map(([name, value]) => [name, isMoment(name) ? value !== null : value]),
      )
    }
    assert.deepEqual(await columns(handed), await columns(fetched))
  })

  test('gets nothing of a message whose key stands for another one', async () => {
    const { handover, seat } = freeLane(await register())
    const first = intakeRow({ idempotencyKey: 'handed twice' })
    await accept(handover, [first])
    assert.equal(seat.take()?.messages.length, 1)
    const [again, other] = [intakeRow({ idempotencyKey: 'handed twice' }), intakeRow()]
    await accept(handover, [again, other])
    const given = seat.take()
    assert.deepEqual(
      given?.messages.map(({ id }) => id),
      [other.id],
    )
    const [job] = await jobsWith([other.id])
    assert.deepEqual(job?.data.ids, [other.id])
    await accept(handover, [intakeRow({ idempotencyKey: 'handed twice' })])
    assert.equal(seat.take(), undefined)
    assert.equal(seat.reserve(), true, 'its place is free again')
  })

  test('gets nothing as a worker that was taken for dead: its jobs are for anybody', async () => {
    const { handover, seat } = freeLane(1_000_000)
    const row = intakeRow()
    await accept(handover, [row])
    assert.equal(seat.take(), undefined)
    const [job] = await jobsWith([row.id])
    assert.deepEqual([job?.state, job?.worker], ['created', null])
  })
})

describe('by the queue goes', () => {
  const isByQueue = async (ids: readonly string[]) => {
    const jobs = await jobsWith(ids)
    assert.ok(jobs.length > 0)
    assert.deepEqual(
      jobs.filter(({ state, worker }) => state !== 'created' || worker !== null),
      [],
    )
  }

  test('what comes while the lane works', async () => {
    const { handover, seat } = freeLane(await register())
    seat.isFree = false
    const row = intakeRow()
    await accept(handover, [row])
    await isByQueue([row.id])
  })

  test('what comes before the last one was taken', async () => {
    const { handover, seat } = freeLane(await register())
    const [first, second] = [intakeRow(), intakeRow()]
    await accept(handover, [first])
    await accept(handover, [second])
    await isByQueue([second.id])
    assert.deepEqual(
      seat.take()?.messages.map(({ id }) => id),
      [first.id],
    )
  })

  test('what is more than a few, and what is for more than one lane', async () => {
    const { handover, seat } = freeLane(await register())
    const many = Array.from({ length: 11 }, () => intakeRow({ priority: 5 }))
    await accept(handover, many)
    await isByQueue(many.map(({ id }) => id))
    const mixed = [intakeRow({ priority: 5 }), intakeRow({ priority: 6 })]
    await accept(handover, mixed)
    await isByQueue(mixed.map(({ id }) => id))
    assert.equal(seat.take(), undefined)
  })

  test('what is more urgent than its stream, unless the lane for that is free', async () => {
    const worker = await register()
    const ordinary = freeLane(worker)
    const row = intakeRow({ priority: 0 })
    await accept(ordinary.handover, [row])
    await isByQueue([row.id])
    const urgent = freeLane(worker, urgentBell(STREAM))
    await accept(urgent.handover, [intakeRow({ priority: 0 })])
    assert.equal(urgent.seat.take()?.messages.length, 1)
  })
})

test('a lane that ends waits for what was promised to it, and is promised nothing more', async () => {
  const bell = new Doorbell()
  const seat = new Seat(bell, () => 1)
  seat.isFree = true
  assert.equal(seat.reserve(), true)
  let isClosed = false
  const closed = seat.close().then(() => {
    isClosed = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(isClosed, false)
  seat.give({ id: randomUUID(), worker: 1, messages: [] })
  await bell.wait(10_000)
  await closed
  assert.notEqual(seat.take(), undefined)
  assert.equal(seat.reserve(), false)
})

test('what nobody takes up goes back to its queue when its lease is over, and not before', async () => {
  const worker = await register()
  const { handover } = freeLane(worker)
  const row = intakeRow()
  await accept(handover, [row])
  const rescuer = new Rescuer({ ...intake, worker: () => worker })
  await rescuer.look()
  assert.deepEqual(
    (await jobsWith([row.id])).map(({ state }) => state),
    ['active'],
  )
  await database.query("update mail.claim set lease_until = now() - interval '1 second' where worker = $1", [
    worker,
  ])
  await rescuer.look()
  const [job] = await jobsWith([row.id])
  assert.deepEqual([job?.state, job?.worker], ['retry', null])
})

describe('in a service', () => {
  /** Notes what is handed over, as a claim is gone when its job is done; returns how often that was. */
  async function noteHandedOver({ query }: TestDatabase): Promise<() => Promise<number>> {
    await query('create table public.noted (queue text)')
    await query(`create function public.note() returns trigger language plpgsql security definer as
      $$ begin insert into public.noted values (new.queue); return null; end $$`)
    await query(`create trigger noting after insert on mail.claim for each row when (new.lease_until is not null)
      execute function public.note()`)
    return async () => (await query('select from public.noted')).length
  }

  test('a single mail goes from hand to hand, and its timeline is the same', async (t) => {
    const whole = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const handedOver = await noteHandedOver(whole)
    const service = await startTestService(whole, { SMTP_URL: sink.url })
    // One may meet the lane at a look at the queue.
    await eventually('one was handed over', async () => {
      const id = await post(service)
      await untilStatus(whole, id, 'sent')
      assert.deepEqual(await eventTypesOf(whole, id), ['accepted', 'queued', 'sent'])
      return (await handedOver()) > 0
    })
    assert.deepEqual(await whole.query('select from mail.claim'), [])
  })

  test('what waits in the queue has its turn while one mail after the other is handed over', async (t) => {
    const whole = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const service = await startTestService(whole, { SMTP_URL: sink.url })
    const first = await post(service)
    await untilStatus(whole, first, 'sent')
    // The same mail again, by hand, so that no bell rings for it.
    const [late] = await whole.query<{ id: string }>(
      `with message as (
         insert into mail.message (id, seq, accepted_at, stream, priority, status, source)
         values (mail.uuid7(), nextval('mail.message_seq'), now(), $1, 9, 'accepted', 'test')
         returning id
       ), content as (
         insert into mail.message_content (id, message)
         select message.id, c.message from message, mail.message_content c where c.id = $2
       ), job as (
         insert into pgboss.job (name, data, priority, retry_limit, policy)
         select q.name, jsonb_build_object('ids', array[message.id]), 0, q.retry_limit, q.policy
         from message, pgboss.queue q where q.name = $3
       )
       select id from message`,
      [STREAM, first, QUEUE],
    )
    let isOver = false
    const sent = untilStatus(whole, late?.id ?? '', 'sent').finally(() => {
      isOver = true
    })
    // One after the other, so that each finds a lane with nothing to do.
    while (!isOver) await untilStatus(whole, await post(service), 'sent')
    await sent
  })

  test('a stop leaves nothing claimed', async (t) => {
    const whole = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const service = await startTestService(whole, { SMTP_URL: sink.url })
    let accepted = 0
    const postOn = async () => {
      while (true) {
        await post(service)
        accepted += 1
      }
    }
    const posting = Promise.allSettled([postOn(), postOn()])
    await eventually('some are accepted', async () => accepted > 20)
    await service.stop()
    await posting
    const [kept] = await whole.query<{ messages: number }>(
      'select count(*)::integer as messages from mail.message',
    )
    assert.ok((kept?.messages ?? 0) >= accepted)
    assert.deepEqual(await whole.query('select from mail.claim'), [])
    assert.deepEqual(await whole.query('select from mail.worker'), [])
  })
})

/** Columns of a job that hold a moment: each has its own. */
function isMoment(column: string): boolean {
  return column.endsWith('_on') || column.endsWith('_after') || column.endsWith('_until')
}
