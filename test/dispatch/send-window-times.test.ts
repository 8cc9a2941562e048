/** When windows open, by the clock on the wall: over midnight, through the nights on which clocks change. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import fc from 'fast-check'
import { Client } from 'pg'
import { createTestDatabase } from '../support/database.ts'

const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const

type Window = {
  readonly days?: readonly string[]
  readonly opens: string
  readonly closes: string
  readonly time_zone?: string
}

let client: Client
before(async (t) => {
  const database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  client = new Client({ connectionString: database.url })
  await client.connect()
  database.beforeDrop(() => client.end())
  // A zone in use is known, and not looked for among all there are with each of hundreds of cases.
  await client.query(
    `insert into mail.send_window (stream, opens, closes, time_zone)
     select 'transactional', '00:00', '24:00', zone from unnest($1::text[]) as zone`,
    [ZONES],
  )
})

async function useWindows(windows: readonly Window[]): Promise<void> {
  await client.query("delete from mail.send_window where stream = 'marketing'")
  await client.query(
    `insert into mail.send_window (stream, days, opens, closes, time_zone)
     select 'marketing', coalesce(array(select json_array_elements_text(w.days)), '{}'), w.opens, w.closes, w.time_zone
     from json_to_recordset($1) as w (days json, opens time, closes time, time_zone text)`,
    [JSON.stringify(windows.map((window) => ({ days: DAYS, time_zone: 'UTC', ...window })))],
  )
}

async function opensAt(at: string): Promise<string | null> {
  const { rows } = await client.query<{ opens: Date | null }>(
    "select mail.window_opens('marketing', $1) as opens",
    [at],
  )
  return rows[0]?.opens?.toISOString() ?? null
}

const BERLIN = 'Europe/Berlin'
const NEW_YORK = 'America/New_York'
const OPEN = null

const CASES: readonly (readonly [
  name: string,
  windows: readonly Window[],
  answers: readonly (readonly [at: string, opens: string | null])[],
])[] = [
  ['a stream without a window is always open', [], [['2026-06-01T03:00:00Z', OPEN]]],
  [
    'a window by day opens at its first minute and has closed at its last',
    [{ opens: '09:00', closes: '17:00' }],
    [
      ['2026-06-01T08:59:59.999Z', '2026-06-01T09:00:00.000Z'],
      ['2026-06-01T09:00:00Z', OPEN],
      ['2026-06-01T16:59:59.999Z', OPEN],
      ['2026-06-01T17:00:00Z', '2026-06-02T09:00:00.000Z'],
    ],
  ],
  [
    'one over midnight belongs to the day on which it opens',
    [{ days: ['fri'], opens: '22:00', closes: '06:00' }],
    [
      ['2026-06-05T05:00:00Z', '2026-06-05T22:00:00.000Z'],
      ['2026-06-05T23:59:00Z', OPEN],
      ['2026-06-06T05:59:00Z', OPEN],
      ['2026-06-06T06:00:00Z', '2026-06-12T22:00:00.000Z'],
      ['2026-06-06T23:00:00Z', '2026-06-12T22:00:00.000Z'],
    ],
  ],
  [
    'midnight may be said as 00:00 or 24:00',
    [
      { days: ['mon'], opens: '20:00', closes: '00:00' },
      { days: ['wed'], opens: '00:00', closes: '24:00' },
    ],
    [
      ['2026-06-01T23:59:59Z', OPEN],
      ['2026-06-02T00:00:00Z', '2026-06-03T00:00:00.000Z'],
      ['2026-06-03T23:59:59Z', OPEN],
      ['2026-06-04T00:00:00Z', '2026-06-08T20:00:00.000Z'],
    ],
  ],
  [
    'of several windows, in several zones, the next one counts',
    [
      { opens: '20:00', closes: '21:00', time_zone: BERLIN },
      { opens: '20:00', closes: '21:00', time_zone: NEW_YORK },
      { days: ['sun'], opens: '10:00', closes: '12:00', time_zone: BERLIN },
    ],
    [
      ['2026-06-01T12:00:00Z', '2026-06-01T18:00:00.000Z'],
      ['2026-06-01T19:00:00Z', '2026-06-02T00:00:00.000Z'],
      ['2026-06-07T01:30:00Z', '2026-06-07T08:00:00.000Z'],
    ],
  ],
  [
    'the hour that is left out when clocks go forward opens nothing; what it would have opened opens after it',
    [{ opens: '02:30', closes: '05:00', time_zone: BERLIN }],
    [
      ['2026-03-28T12:00:00Z', '2026-03-29T01:00:00.000Z'],
      ['2026-03-29T00:59:59Z', '2026-03-29T01:00:00.000Z'],
      ['2026-03-29T03:00:00Z', '2026-03-30T00:30:00.000Z'],
    ],
  ],
  [
    'a window that lies in that hour misses its turn',
    [{ days: ['sun'], opens: '02:00', closes: '03:00', time_zone: NEW_YORK }],
    [
      ['2026-03-07T12:00:00Z', '2026-03-15T06:00:00.000Z'],
      ['2026-03-15T06:59:00Z', OPEN],
    ],
  ],
  [
    'the hour that comes twice when clocks go back counts both times',
    [{ opens: '22:00', closes: '02:30', time_zone: BERLIN }],
    [
      ['2026-10-25T00:29:00Z', OPEN],
      ['2026-10-25T00:30:00Z', '2026-10-25T01:00:00.000Z'],
      ['2026-10-25T01:29:00Z', OPEN],
      ['2026-10-25T01:30:00Z', '2026-10-25T21:00:00.000Z'],
    ],
  ],
  [
    'what opens in it opens twice',
    [{ opens: '01:30', closes: '01:45', time_zone: NEW_YORK }],
    [
      ['2026-11-01T05:00:00Z', '2026-11-01T05:30:00.000Z'],
      ['2026-11-01T05:45:00Z', '2026-11-01T06:30:00.000Z'],
      ['2026-11-01T06:45:00Z', '2026-11-02T06:30:00.000Z'],
    ],
  ],
]

for (const [name, windows, answers] of CASES) {
  test(name, async () => {
    await useWindows(windows)
    for (const [at, opens] of answers) assert.equal(await opensAt(at), opens, at)
  })
}

const MINUTE_MS = 60_000
const ZONES = [
  BERLIN,
  NEW_YORK,
  'UTC',
  'Australia/Lord_Howe',
  'Asia/Kathmandu',
  'America/St_Johns',
  'Pacific/Chatham',
]

/** What a clock on the wall shows; asked of Intl four times an hour, as no zone changes its clocks in between. */
function createClock(zone: string): (at: number) => { day: number; minute: number } {
  const format = new Intl.DateTimeFormat('en-GB', {
    ...{ timeZone: zone, hourCycle: 'h23', weekday: 'short', hour: '2-digit', minute: '2-digit' },
  })
  const quarters = new Map<number, { day: number; minute: number }>()
  return (at) => {
    const quarter = Math.floor(at / (15 * MINUTE_MS))
    let shown = quarters.get(quarter)
    if (shown === undefined) {
      const parts = format.formatToParts(quarter * 15 * MINUTE_MS)
      const part = (type: string) => parts.find((each) => each.type === type)?.value ?? ''
      const day = DAYS.indexOf(part('weekday').toLowerCase() as (typeof DAYS)[number])
      shown = { day, minute: Number(part('hour')) * 60 + Number(part('minute')) }
      quarters.set(quarter, shown)
    }
    return { ...shown, minute: shown.minute + Math.floor(at / MINUTE_MS) - quarter * 15 }
  }
}
const clocks = new Map(ZONES.map((zone) => [zone, createClock(zone)]))

type Drawn = { days: (typeof DAYS)[number][]; opens: number; closes: number; time_zone: string }

function isOpen(windows: readonly Drawn[], at: number): boolean {
  return windows.some(({ days, opens, closes, time_zone: zone }) => {
    const wall = clocks.get(zone)?.(at)
    assert.ok(wall)
    const opensOn = (day: number) => days.some((each) => DAYS.indexOf(each) === day % 7)
    if (wall.minute >= opens) return opensOn(wall.day) && (closes <= opens || wall.minute < closes)
    return closes <= opens && wall.minute < closes && opensOn(wall.day + 6)
  })
}

function clockText(minute: number): string {
  return `${String(Math.floor(minute / 60)).padStart(2, '0')}:${String(minute % 60).padStart(2, '0')}`
}

const anyWindow = fc
  .record({
    days: fc.uniqueArray(fc.constantFrom(...DAYS), { minLength: 1 }),
    opens: fc.oneof(fc.integer({ min: 0, max: 1_439 }), fc.integer({ min: 0, max: 240 })),
    closes: fc.oneof(fc.integer({ min: 0, max: 1_440 }), fc.integer({ min: 0, max: 240 })),
    time_zone: fc.constantFrom(...ZONES),
  })
  .filter(({ opens, closes }) => opens !== closes)

/** About the weekends on which most of these zones change their clocks, and at any time. */
const anyMoment = fc.oneof(
  fc.integer({ min: Date.UTC(2026, 0), max: Date.UTC(2028, 0) }),
  ...[Date.UTC(2026, 2, 8), Date.UTC(2026, 2, 29), Date.UTC(2026, 3, 5), Date.UTC(2026, 9, 4)].map((day) =>
    fc.integer({ min: day - 43_200_000, max: day + 86_400_000 }),
  ),
  ...[Date.UTC(2026, 9, 25), Date.UTC(2026, 10, 1)].map((day) =>
    fc.integer({ min: day - 43_200_000, max: day + 86_400_000 }),
  ),
)

const anyCase = [fc.array(anyWindow, { minLength: 1, maxLength: 3 }), anyMoment] as const

test('a window opens at the first minute at which a clock on the wall shows a time within it', async () => {
  await fc.assert(
    fc.asyncProperty(...anyCase, async (windows, at) => {
      await useWindows(
        windows.map((each) => ({ ...each, opens: clockText(each.opens), closes: clockText(each.closes) })),
      )
      let expected: number | null = null
      if (!isOpen(windows, at)) {
        expected = (Math.floor(at / MINUTE_MS) + 1) * MINUTE_MS
        while (!isOpen(windows, expected)) expected += MINUTE_MS
      }
      const opens = await opensAt(new Date(at).toISOString())
      assert.equal(opens, expected === null ? null : new Date(expected).toISOString())
    }),
    { numRuns: 150 },
  )
})

test('a window opened at the last minute at which it was closed before', async () => {
  await fc.assert(
    fc.asyncProperty(...anyCase, async (windows, at) => {
      await useWindows(
        windows.map((each) => ({ ...each, opens: clockText(each.opens), closes: clockText(each.closes) })),
      )
      const { rows } = await client.query<{ opened: Date | null }>(
        "select mail.window_opened('marketing', $1) as opened",
        [new Date(at)],
      )
      const furthest = at - 15 * 1_440 * MINUTE_MS
      let expected: number | null = null
      if (isOpen(windows, at)) {
        expected = Math.floor(at / MINUTE_MS) * MINUTE_MS
        while (expected > furthest && isOpen(windows, expected - MINUTE_MS)) expected -= MINUTE_MS
        expected = Math.max(expected, furthest)
      }
      assert.equal(rows[0]?.opened?.getTime() ?? null, expected)
    }),
    { numRuns: 100 },
  )
})

test('the open time between two moments is that of the minutes at which it is open', async () => {
  await fc.assert(
    fc.asyncProperty(...anyCase, fc.integer({ min: 0, max: 4 * 1_440 }), async (windows, at, minutes) => {
      await useWindows(
        windows.map((each) => ({ ...each, opens: clockText(each.opens), closes: clockText(each.closes) })),
      )
      const since = Math.floor(at / MINUTE_MS) * MINUTE_MS
      const open = Array.from({ length: minutes }, (_, index) => since + index * MINUTE_MS).filter((minute) =>
        isOpen(windows, minute),
      )
      const { rows } = await client.query<{ minutes: number }>(
        "select extract(epoch from mail.open_time('marketing', $1, $2))::integer / 60 as minutes",
        [new Date(since), new Date(since + minutes * MINUTE_MS)],
      )
      assert.equal(rows[0]?.minutes, open.length)
    }),
    { numRuns: 60 },
  )
})

test('what makes no sense is refused with what would', async () => {
  const insert = (columns: string, ...values: unknown[]) =>
    client.query(
      `insert into mail.send_window (stream, ${columns}) values ('marketing', ${values.map((_, index) => `$${index + 1}`).join(', ')})`,
      values,
    )
  const times = ['09:00', '17:00']
  for (const [zone, hint] of [
    ['Berlin', 'Did you mean Europe/Berlin?'],
    ['America/new york', 'Did you mean America/New_York?'],
    ['Europe/Berln', /^Give an IANA name such as Europe\/Berlin/],
    ['UTC+2', /^Give an IANA name/],
    ['CEST', /^Give an IANA name/],
    ['', /^Give an IANA name/],
  ] as const) {
    await assert.rejects(insert('opens, closes, time_zone', ...times, zone), {
      code: '22023',
      message: `there is no time zone '${zone}'`,
      hint,
    })
  }
  for (const [days, constraint] of [
    ['{}', 'days_are_one_or_more_of_mon_tue_wed_thu_fri_sat_sun'],
    ['{monday}', 'days_are_one_or_more_of_mon_tue_wed_thu_fri_sat_sun'],
    ['{mon,null}', 'days_are_one_or_more_of_mon_tue_wed_thu_fri_sat_sun'],
  ]) {
    await assert.rejects(insert('opens, closes, days', ...times, days), { code: '23514', constraint })
  }
  for (const [opens, closes, constraint] of [
    ['09:00', '09:00', 'a_window_opens_and_closes_at_different_times'],
    ['24:00', '09:00', 'a_window_opens_at_a_whole_minute_before_24_00'],
    ['09:00:30', '10:00', 'a_window_opens_at_a_whole_minute_before_24_00'],
    ['09:00', '10:00:00.5', 'a_window_closes_at_a_whole_minute'],
  ]) {
    await assert.rejects(insert('opens, closes', opens, closes), { code: '23514', constraint })
  }
  const { rows } = await client.query(
    `insert into mail.send_window (stream, opens, closes, time_zone)
     values ('marketing', '09:00', '17:00', 'europe/berlin') returning time_zone`,
  )
  assert.deepEqual(rows, [{ time_zone: BERLIN }], 'as IANA writes it')
})
