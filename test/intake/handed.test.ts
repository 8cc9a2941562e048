import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { before, describe, type TestContext, test } from 'node:test'
import { Client } from 'pg'
import { readCatalog } from '../../src/catalog.ts'
import { CRASH_CHANNEL, type CrashPoint } from '../../src/crash-point.ts'
import { ConnectionError } from '../../src/db/connection-error.ts'
import type { Database } from '../../src/db/pool.ts'
import type { Bells } from '../../src/queue/bells.ts'
import { ensureQueues } from '../../src/queue/boss.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { OF_THIS_DATABASE } from '../support/lock-waits.ts'
import { orderMail } from '../support/service.ts'
import { intakeRow, openIntake, statusOf, whileLocked } from './intake-stage.ts'

/** Mail whose callers wait for a durable answer: it goes from hand to hand, through no door. */

const DURABLE = { mayBuffer: false, timeoutMs: 10_000 }
const IMPATIENT = { mayBuffer: false, timeoutMs: 100 }

type Desk = ReturnType<Awaited<ReturnType<typeof openIntake>>['openDesk']>

let database: TestDatabase
let intake: Awaited<ReturnType<typeof openIntake>>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  intake = await openIntake(database)
})

test('an answer comes when the message is committed to a logged table, and no sooner', async () => {
  const desk = intake.openDesk()
  const row = intakeRow()
  await working(desk, async () => {
    const { accepted } = await whileLocked(database, 'mail.message', async () => {
      const accepted = desk.acceptor.accept(row, DURABLE)
      await untilBlocked('mail.message')
      assert.deepEqual(await database.query('select from mail.intake'), [], 'it goes through no door')
      assert.equal(await isSettled(accepted), false)
      return { accepted }
    })
    assert.deepEqual(await accepted, { id: row.id, durability: 'durable', isReplay: false })
  })
  assert.deepEqual(await statusOf(database, row.id), ['accepted'])
})

test('what nobody took in time was not accepted, and is never sent', async () => {
  const desk = intake.openDesk()
  const row = intakeRow()
  await assert.rejects(desk.acceptor.accept(row, IMPATIENT), { status: 503, message: /was not accepted/ })
  const next = intakeRow()
  await working(desk, () => desk.acceptor.accept(next, DURABLE))
  assert.deepEqual([await statusOf(database, row.id), await statusOf(database, next.id)], [[], ['accepted']])
})

test('what is being moved when the time is over may still be sent, and its caller hears so', async () => {
  const desk = intake.openDesk()
  const row = intakeRow()
  await working(desk, async () => {
    await whileLocked(database, 'mail.message', () =>
      assert.rejects(desk.acceptor.accept(row, IMPATIENT), {
        status: 503,
        retryAfterS: 2,
        message: /may still be sent.*Idempotency-Key/,
      }),
    )
    await eventually('it is stored', async () => (await statusOf(database, row.id)).length > 0)
  })
})

test('requests of one moment are stored by one statement', async () => {
  const desk = intake.openDesk()
  const rows = Array.from({ length: 300 }, () => intakeRow({ priority: 5 }))
  const accepted = Promise.all(rows.map((row) => desk.acceptor.accept(row, DURABLE)))
  await working(desk, () => accepted)
  const transactions = await database.query('select distinct xmin from mail.message where id = any ($1)', [
    rows.map(({ id }) => id),
  ])
  assert.equal(transactions.length, 1)
  const [seqs] = await database.query<{ numbers: number }>(
    'select count(distinct seq)::integer as numbers from mail.message where id = any ($1)',
    [rows.map(({ id }) => id)],
  )
  assert.equal(seqs?.numbers, 300)
})

test('what is urgent is answered while others are being moved', async () => {
  const desk = intake.openDesk()
  await working(desk, async () => {
    const holder = new Client({ connectionString: database.url })
    await holder.connect()
    try {
      await holder.query('begin')
      await holder.query(
        `insert into mail.idempotency (scope, key, fingerprint, message_ids, expires_at)
         values ('send', 'held', '', '{}', now() + interval '1 hour')`,
      )
      const order = desk.acceptor.accept(intakeRow({ priority: 4, idempotencyKey: 'held' }), DURABLE)
      await eventually('the order waits for the key', async () => {
        const waiting = await database.query(
          `select from pg_stat_activity
           where datname = current_database() and wait_event_type = 'Lock' and query like '%intake.store_new%'`,
        )
        return waiting.length === 1
      })
      await desk.acceptor.accept(intakeRow({ priority: 3 }), DURABLE)
      assert.equal(await isSettled(order), false)
      await holder.query('rollback')
      await order
    } finally {
      await holder.end()
    }
  })
})

describe('a batch that failed', () => {
  test('is moved again when it was not committed, once', async (t) => {
    const desk = intake.openDesk()
    const row = intakeRow({ stream: await addStream('late') })
    await working(desk, async () => {
      const tries = countReached(t, 'mover.before-commit')
      const accepted = desk.acceptor.accept(row, DURABLE)
      await eventually('it was tried, and then again', async () => tries() >= 2)
      assert.deepEqual(await statusOf(database, row.id), [])
      await ensureQueues(intake.db)
      assert.deepEqual(await accepted, { id: row.id, durability: 'durable', isReplay: false })
    })
    assert.deepEqual(await statusOf(database, row.id), ['accepted'])
    const jobs = await database.query("select from pgboss.job where name = 'process.late'")
    assert.equal(jobs.length, 1)
  })

  test('is answered as durable when it turns out to be committed, and not moved again', async () => {
    let rings = 0
    const bells = failing(intake.bells, 'ring', () => {
      rings += 1
      return true
    })
    const desk = intake.openDesk({ bells })
    const row = intakeRow()
    const accepted = await working(desk, () => desk.acceptor.accept(row, DURABLE))
    assert.deepEqual(accepted, { id: row.id, durability: 'durable', isReplay: false })
    assert.deepEqual([rings, await statusOf(database, row.id)], [1, ['accepted']])
  })

  test('is dropped when its callers were told that it was not accepted in time', async () => {
    const desk = intake.openDesk()
    const row = intakeRow({ stream: await addStream('never') })
    const next = intakeRow()
    await working(desk, async () => {
      await assert.rejects(desk.acceptor.accept(row, IMPATIENT), { status: 503 })
      await ensureQueues(intake.db)
      await desk.acceptor.accept(next, DURABLE)
    })
    assert.deepEqual(
      [await statusOf(database, row.id), await statusOf(database, next.id)],
      [[], ['accepted']],
    )
  })

  test('goes one by one when the database refuses a row of it', async () => {
    await database.query(
      `create function mail.refuse() returns trigger language plpgsql as $$
       begin
         if new.source = 'refused' and new.status <> 'dead' then raise check_violation; end if;
         return new;
       end $$`,
    )
    await database.query(
      'create trigger refuse before insert on mail.message for each row execute function mail.refuse()',
    )
    const desk = intake.openDesk()
    const [good, bad] = [intakeRow(), intakeRow({ source: 'refused' })]
    const answers = Promise.allSettled([good, bad].map((row) => desk.acceptor.accept(row, DURABLE)))
    await working(desk, () => answers)
    await database.query('drop trigger refuse on mail.message')
    const [kept, refused] = await answers
    assert.equal(kept?.status, 'fulfilled')
    assert.match(refused?.status === 'rejected' && refused.reason.message, /The database refused this row/)
    assert.deepEqual(
      [await statusOf(database, good.id), await statusOf(database, bad.id)],
      [['accepted'], []],
    )
  })
})

test('while the database is away callers hear of it soon, and nothing of theirs is sent later', async () => {
  const away = new ConnectionError(new Error('connect ECONNREFUSED'))
  const db = failing(intake.db, 'getExecutor', () => true, away)
  const desk = intake.openDesk({ db })
  const row = intakeRow()
  // Longer than any test may take: it is not this that ends their waiting.
  const patient = { mayBuffer: false, timeoutMs: 3_600_000 }
  await working(desk, () =>
    assert.rejects(desk.acceptor.accept(row, patient), { status: 503, retryAfterS: 2 }),
  )
  assert.deepEqual(await statusOf(database, row.id), [])
})

describe('a key', () => {
  test('that an SQL writer used before stays with its message', async () => {
    const message = orderMail()
    const [first] = await database.query<{ id: string }>(
      "insert into mail.outbox (message, idempotency_key) values ($1::json, 'both doors') returning id",
      [JSON.stringify(message)],
    )
    const desk = intake.openDesk()
    const row = intakeRow({ message, idempotencyKey: 'both doors' })
    const accepted = await working(desk, () => desk.acceptor.accept(row, DURABLE))
    assert.deepEqual(accepted, { id: first?.id, durability: 'durable', isReplay: true })
    assert.deepEqual(await statusOf(database, row.id), [])
  })

  test('given twice at the same moment stands for the first, and another message under it is a conflict', async () => {
    const desk = intake.openDesk()
    const [first, again] = [intakeRow({ idempotencyKey: 'twice' }), intakeRow({ idempotencyKey: 'twice' })]
    const other = intakeRow({ idempotencyKey: 'twice', message: orderMail({ subject: 'Another' }) })
    const answers = Promise.allSettled([first, again, other].map((row) => desk.acceptor.accept(row, DURABLE)))
    await working(desk, () => answers)
    const [one, two, three] = await answers
    assert.deepEqual(one, {
      status: 'fulfilled',
      value: { id: first.id, durability: 'durable', isReplay: false },
    })
    assert.deepEqual(two, {
      status: 'fulfilled',
      value: { id: first.id, durability: 'durable', isReplay: true },
    })
    assert.equal(three?.status === 'rejected' && three.reason.status, 409)
  })
})

describe('of a batch each has an answer of its own', () => {
  const bytes = { filename: 'a.txt', content: Buffer.from('attached').toString('base64') }

  /** One that is new, with a key and without, with an attachment, one used before, one used for another, one that is no mail. */
  async function mixedBatch(name: string) {
    const before = intakeRow({ idempotencyKey: `${name} before` })
    const used = intakeRow({ idempotencyKey: `${name} other`, message: orderMail({ subject: 'Another' }) })
    const first = intake.openDesk()
    await working(first, () => Promise.all([before, used].map((row) => first.acceptor.accept(row, DURABLE))))
    const fresh = [
      intakeRow({ idempotencyKey: `${name} new` }),
      intakeRow(),
      intakeRow({ idempotencyKey: `${name} attached`, message: orderMail({ attachments: [bytes] }) }),
    ]
    const repeat = intakeRow({ idempotencyKey: `${name} before` })
    const conflict = intakeRow({ idempotencyKey: `${name} other` })
    const bad = intakeRow({ idempotencyKey: `${name} bad`, message: { subject: 'to nobody' } })
    return { before, fresh, repeat, conflict, bad, all: [conflict, ...fresh, bad, repeat] }
  }

  async function answersOf(desk: Desk, { all }: Awaited<ReturnType<typeof mixedBatch>>) {
    const answers = Promise.allSettled(all.map((row) => desk.acceptor.accept(row, DURABLE)))
    await working(desk, () => answers)
    return new Map(
      (await answers).map((answer, index) => [
        all[index]?.id,
        answer.status === 'fulfilled' ? answer.value : answer.reason.status,
      ]),
    )
  }

  async function checkBatch(
    { before, fresh, repeat, conflict, bad }: Awaited<ReturnType<typeof mixedBatch>>,
    answers: Awaited<ReturnType<typeof answersOf>>,
  ): Promise<void> {
    for (const { id } of fresh) {
      assert.deepEqual(answers.get(id), { id, durability: 'durable', isReplay: false })
      assert.deepEqual(await statusOf(database, id), ['accepted'])
      const [jobs] = await database.query<{ count: number }>(
        "select count(*)::integer as count from pgboss.job where data -> 'ids' ? $1",
        [id],
      )
      assert.equal(jobs?.count, 1)
    }
    assert.deepEqual(answers.get(repeat.id), { id: before.id, durability: 'durable', isReplay: true })
    assert.equal(answers.get(conflict.id), 409)
    for (const { id } of [repeat, conflict]) {
      assert.deepEqual(await statusOf(database, id), [])
      assert.deepEqual(await database.query("select from pgboss.job where data -> 'ids' ? $1", [id]), [])
    }
    assert.equal(answers.get(bad.id), 422)
    assert.deepEqual(await statusOf(database, bad.id), ['dead'])
    const keys = await database.query<{ key: string }>(
      'select key from mail.idempotency where message_ids && $1 order by key',
      [[...fresh, repeat, conflict, bad].map(({ id }) => id)],
    )
    assert.equal(keys.length, 2, 'keys stand for what is new and good')
  }

  test('whatever the others are', async () => {
    const batch = await mixedBatch('plain')
    await checkBatch(batch, await answersOf(intake.openDesk(), batch))
  })

  test('also when only what is new was committed before it failed', async () => {
    const batch = await mixedBatch('broken')
    let failures = 0
    const db = failing(intake.db, 'transaction', () => {
      failures += 1
      return failures <= 3
    })
    await checkBatch(batch, await answersOf(intake.openDesk({ db }), batch))
    assert.ok(failures > 3)
  })
})

async function addStream(name: string): Promise<string> {
  await database.query(
    "insert into mail.provider (name, transport, credentials_env) values ('default', 'smtp', 'SMTP_URL') on conflict do nothing",
  )
  await database.query('insert into mail.stream (name) values ($1)', [name])
  intake.catalog.current = await readCatalog(intake.db)
  return name
}

function countReached(t: TestContext, point: CrashPoint): () => number {
  let times = 0
  const note = (reached: unknown) => {
    if (reached === point) times += 1
  }
  subscribe(CRASH_CHANNEL, note)
  t.after(() => unsubscribe(CRASH_CHANNEL, note))
  return () => times
}

async function working<T>({ mover }: Desk, work: () => Promise<T>): Promise<T> {
  mover.start()
  try {
    return await work()
  } finally {
    await mover.stop()
  }
}

/** The same, but a method that throws when it is told to. */
function failing<T extends Bells | Database>(
  whole: T,
  method: keyof T,
  isFailing: () => boolean,
  error = new Error('failed, as the test wants it'),
): T {
  return new Proxy(whole, {
    get(target, name) {
      const value = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      return (...args: unknown[]) => {
        if (name === method && isFailing()) throw error
        return value.apply(target, args)
      }
    },
  })
}

async function untilBlocked(table: string): Promise<void> {
  await eventually(`somebody waits for ${table}`, async () => {
    const waiting = await database.query(
      `select from pg_locks
       where not granted and relation = $1::regclass and ${OF_THIS_DATABASE}`,
      [table],
    )
    return waiting.length > 0
  })
}

async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  const now = new Promise<false>((resolve) => setImmediate(() => resolve(false)))
  return Promise.race([promise.then(() => true as const), now])
}
