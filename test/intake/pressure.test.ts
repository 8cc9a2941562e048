import assert from 'node:assert/strict'
import { before, beforeEach, describe, test } from 'node:test'
import { ApiError } from '../../src/errors.ts'
import { PressureGauge } from '../../src/intake/pressure.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { orderMail } from '../support/service.ts'
import { openIntake } from './intake-stage.ts'

const URGENT = { name: 'transactional', priority: 3 }
const LATER = { name: 'marketing', priority: 7 }
const MAIL = JSON.stringify(orderMail())

let database: TestDatabase
let intake: Awaited<ReturnType<typeof openIntake>>
let now = 0

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  intake = await openIntake(database)
})

beforeEach(async () => {
  await database.query('truncate mail.intake, mail.outbox')
  await database.query(
    `update mail.intake_limit set soft_backlog = 10, hard_backlog = 30, soft_age_s = 60, hard_age_s = 600,
       soft_growth_per_s = null, urgent_priority = 3`,
  )
})

async function fill(door: 'intake' | 'outbox', count: number, priority: number | null = null): Promise<void> {
  await database.query(
    `insert into mail.${door} (message, priority) select $1, $2 from generate_series(1, $3)`,
    [MAIL, priority, count],
  )
}

function createGauge() {
  const lines: { level: string; fields: Record<string, unknown> }[] = []
  const log = createLog('silent')
  const note = (level: string) => (fields: object) => {
    lines.push({ level, fields: { ...fields } })
  }
  const watched = Object.assign(Object.create(log), { warn: note('warn'), info: note('info') })
  return { gauge: new PressureGauge({ db: intake.db, log: watched, now: () => now }), lines }
}

/** What a request of each kind hears. */
function verdictsOf(gauge: PressureGauge) {
  return [undefined, URGENT, LATER].map((stream) => {
    try {
      gauge.admit(stream)
      return 200
    } catch (error) {
      assert.ok(error instanceof ApiError)
      assert.ok((error.retryAfterS ?? 0) >= 1)
      return error.status
    }
  })
}

async function verdictAfterLook() {
  const { gauge } = createGauge()
  await gauge.look()
  return verdictsOf(gauge)
}

const ALL = [200, 200, 200]
const LESS_URGENT_WAIT = [200, 200, 429]
const NOBODY = [503, 503, 503]

describe('the doors', () => {
  test('up to the soft limit take everything', async () => {
    await fill('intake', 5)
    await fill('outbox', 5, 9)
    assert.deepEqual(await verdictAfterLook(), ALL)
  })

  test('past the soft limit make less urgent streams wait, both doors and all priorities counted', async () => {
    await fill('intake', 5)
    await fill('outbox', 3, 9)
    await fill('outbox', 3, 0)
    assert.deepEqual(await verdictAfterLook(), LESS_URGENT_WAIT)
  })

  test('past the hard limit refuse everybody', async () => {
    await fill('intake', 16)
    await fill('outbox', 15)
    assert.deepEqual(await verdictAfterLook(), NOBODY)
  })

  test('are not taken for full when one old row waits behind thousands that have passed', async () => {
    await fill('outbox', 1, 9)
    await database.query("select nextval('mail.message_seq') from generate_series(1, 5000)")
    assert.deepEqual(await verdictAfterLook(), ALL)
    const [row] = await database.query<{ backlog: string }>('select backlog from mail.measure_intake()')
    assert.equal(Number(row?.backlog), 1)
  })

  test('go by the age of what waits, whatever its priority', async () => {
    for (const [age, expected] of [
      ['59 seconds', ALL],
      ['61 seconds', LESS_URGENT_WAIT],
      ['601 seconds', NOBODY],
      // Nothing an owner of the tables may have written stops a look.
      ['-infinity', NOBODY],
      ['infinity', ALL],
    ] as const) {
      await database.query('truncate mail.intake')
      await database.query(
        age.endsWith('infinity')
          ? `insert into mail.intake (message, priority, received_at) values ($1, 9, '${age}')`
          : `insert into mail.intake (message, priority, received_at) values ($1, 9, now() - interval '${age}')`,
        [MAIL],
      )
      assert.deepEqual(await verdictAfterLook(), expected, age)
    }
  })

  test('do not take for old what was received long ago and has come only now', async () => {
    // A refused message that is retried has the time of its first coming.
    const retried = `insert into mail.outbox (message, received_at) select $1, now() - interval '5 days' from generate_series(1, 5)`
    const { gauge } = createGauge()
    await fill('intake', 1)
    await gauge.look()
    now += 2_000
    await database.query(retried, [MAIL])
    await gauge.look()
    assert.deepEqual(verdictsOf(gauge), ALL)
    // Seen for as long as may be, it is old.
    for (let seconds = 2; seconds <= 62; seconds += 2) {
      now += 2_000
      await gauge.look()
    }
    assert.deepEqual(verdictsOf(gauge), LESS_URGENT_WAIT)
  })

  test('do not take for old what a long transaction shows at its end', async () => {
    const { gauge } = createGauge()
    const [first] = await database.query<{ seq: string }>(
      "select nextval('mail.message_seq') as seq from generate_series(1, 5)",
    )
    await fill('intake', 1)
    await gauge.look()
    now += 2_000
    await database.query(
      `insert into mail.outbox (seq, message, received_at) select $1::bigint + n, $2, now() - interval '20 minutes' from generate_series(0, 4) n`,
      [first?.seq, MAIL],
    )
    await gauge.look()
    assert.deepEqual(verdictsOf(gauge), ALL)
    // Its next row, once the mover has taken the first ones.
    now += 2_000
    await database.query('delete from mail.outbox where seq < $1::bigint + 3', [first?.seq])
    await gauge.look()
    assert.deepEqual(verdictsOf(gauge), ALL)
  })

  test('that are empty hold nothing, in psql too', async () => {
    const [row] = await database.query(
      'select backlog::integer, extract(epoch from oldest_age)::integer as age_s from mail.intake_pressure',
    )
    assert.deepEqual(row, { backlog: 0, age_s: 0 })
  })

  test('go by growth where an operator set a limit for it', async () => {
    const { gauge, lines } = createGauge()
    await database.query('update mail.intake_limit set soft_backlog = 1000, hard_backlog = 1000')
    const grow = async () => {
      for (const seconds of [0, 5]) {
        now += seconds * 1_000
        await gauge.look()
        await fill('intake', 100)
      }
      now += 1_000
      await gauge.look()
    }
    await grow()
    assert.deepEqual(verdictsOf(gauge), ALL)
    await database.query('update mail.intake_limit set soft_growth_per_s = 20')
    now += 60_000
    await grow()
    assert.deepEqual(verdictsOf(gauge), LESS_URGENT_WAIT)
    assert.equal(lines.at(-1)?.fields.cause, 'growth')
  })
})

test('a limit changed in psql holds from the next look', async () => {
  const { gauge } = createGauge()
  await fill('outbox', 11)
  await gauge.look()
  assert.deepEqual(verdictsOf(gauge), LESS_URGENT_WAIT)
  await database.query('update mail.intake_limit set urgent_priority = 7')
  await gauge.look()
  assert.deepEqual(verdictsOf(gauge), ALL)
  await database.query('update mail.intake_limit set hard_backlog = 10')
  await gauge.look()
  assert.deepEqual(verdictsOf(gauge), NOBODY)
})

test('a change is logged once, however many requests and looks there are', async () => {
  const { gauge, lines } = createGauge()
  await gauge.look()
  await fill('outbox', 11)
  for (let n = 0; n < 3; n += 1) {
    await gauge.look()
    verdictsOf(gauge)
  }
  await database.query('truncate mail.outbox')
  await gauge.look()
  await gauge.look()
  assert.deepEqual(
    lines.map(({ level, fields }) => [level, fields.pressure, fields.cause]),
    [
      ['warn', 'soft', 'backlog'],
      ['info', null, null],
    ],
  )
})

test('the time to wait is what the doors need at the rate they empty', async () => {
  const { gauge } = createGauge()
  await fill('outbox', 29)
  await gauge.look()
  now += 5_000
  await database.query(
    'delete from mail.outbox where seq in (select seq from mail.outbox order by seq limit 5)',
  )
  await gauge.look()
  // 5 in 5 seconds; 24 wait, 14 more than may.
  assert.throws(
    () => gauge.admit(LATER),
    (error: ApiError) => error.retryAfterS === 14,
  )
})

test('mail.queue shows the limits and the verdict, also while nothing waits', async () => {
  const read = () =>
    database.query(
      `select ready::integer, pressure, soft_backlog::integer as soft, hard_backlog::integer as hard,
         extract(epoch from soft_age)::integer as soft_age from mail.queue where stage = 'intake'`,
    )
  assert.deepEqual(await read(), [{ ready: 0, pressure: null, soft: 10, hard: 30, soft_age: 60 }])
  await fill('outbox', 12)
  assert.deepEqual(await read(), [{ ready: 12, pressure: 'soft', soft: 10, hard: 30, soft_age: 60 }])
  const [pressure] = await database.query('select pressure, cause, urgent_priority from mail.intake_pressure')
  assert.deepEqual(pressure, { pressure: 'soft', cause: 'backlog', urgent_priority: 3 })
})

test('limits that contradict each other are refused by name', async () => {
  await assert.rejects(database.query('update mail.intake_limit set hard_backlog = 9'), {
    constraint: 'hard_backlog_is_at_least_soft',
  })
})
