import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { parseMessage } from '../../src/message/message-schema.ts'
import { readMoment, readScheduledAt } from '../../src/message/scheduled-at.ts'

/** A Friday. */
const NOW = '2026-11-20T16:30:15.250Z'
const PLAIN = { from: 'shop@example.com', to: 'ada@example.org', subject: 'Hello', text: 'Hi' }

function read(text: string, now = NOW): string {
  const scheduled = readScheduledAt(text, Date.parse(now))
  return scheduled.ok ? new Date(scheduled.at).toISOString() : scheduled.reason
}

const UNDERSTOOD: readonly (readonly [text: string, moment: string, now?: string])[] = [
  // Resend's own examples.
  ['2026-12-05T11:52:01.858Z', '2026-12-05T11:52:01.858Z'],
  ['in 1 min', '2026-11-20T16:31:15.250Z'],
  ['in 1 hour', '2026-11-20T17:30:15.250Z'],
  ['tomorrow at 9am', '2026-11-21T09:00:00.000Z'],
  ['Friday at 3pm ET', '2026-11-20T20:00:00.000Z'],
  // Other spellings of ISO 8601, and what Postgres writes.
  ['2026-12-05t11:52z', '2026-12-05T11:52:00.000Z'],
  ['2026-12-05T11:52:01+02:00', '2026-12-05T09:52:01.000Z'],
  ['2026-12-05T11:52:01-0330', '2026-12-05T15:22:01.000Z'],
  ['2026-12-05 11:52:01.123456+00', '2026-12-05T11:52:01.123Z'],
  // Short forms.
  ['in an hour', '2026-11-20T17:30:15.250Z'],
  ['  in 1 hour 30 minutes ', '2026-11-20T18:00:15.250Z'],
  ['In 30 Days', '2026-12-20T16:30:15.250Z'],
  ['Dec 1 at 09:30', '2026-12-01T09:30:00.000Z'],
  ['noon tomorrow', '2026-11-21T12:00:00.000Z'],
  ['tomorrow at 9am UTC+2', '2026-11-21T07:00:00.000Z'],
  ['tomorrow at 9am +02:00', '2026-11-21T07:00:00.000Z'],
  // A day of the week is the next one.
  ['Friday at 3pm', '2026-11-27T15:00:00.000Z'],
  ['Friday at 5pm', '2026-11-20T17:00:00.000Z'],
  ['9am', '2026-11-21T09:00:00.000Z'],
  // Days are those of the zone that is named.
  ['tomorrow at 9am PT', '2026-11-21T17:00:00.000Z', '2026-11-21T02:00:00Z'],
  ['tomorrow at 9am PST', '2026-11-21T17:00:00.000Z', '2026-11-21T02:00:00Z'],
  ['tomorrow at 9am', '2026-11-22T09:00:00.000Z', '2026-11-21T02:00:00Z'],
  // The clocks change in between: 4 hours behind UTC before it, 5 after it.
  ['Friday at 3pm ET', '2026-11-06T20:00:00.000Z', '2026-10-30T21:00:00Z'],
  ['Friday at 3pm ET', '2026-10-30T19:00:00.000Z', '2026-10-30T18:00:00Z'],
  ['in 1 hour ET', '2026-11-01T06:30:00.000Z', '2026-11-01T05:30:00Z'],
  ['in 2 days at 9am ET', '2026-11-02T14:00:00.000Z', '2026-10-31T16:00:00Z'],
  // What has passed is a moment like any other.
  ['2001-01-01T00:00:00Z', '2001-01-01T00:00:00.000Z'],
  ['now', NOW],
  ['5 minutes ago', '2026-11-20T16:25:15.250Z'],
  ['today at 9am', '2026-11-20T09:00:00.000Z'],
]

const REFUSED: readonly (readonly [text: string, reason: RegExp])[] = [
  ['', /^it is empty; use a moment like `2026-08-05T11:52:01Z`.*`in 1 hour`/],
  ['soon', /^`soon` is not understood as a whole; use a moment/],
  ['in 1 hour or so', /not understood as a whole/],
  ['every friday at 3pm', /not understood as a whole/],
  ['tomorrow 9am to 10am', /not understood as a whole/],
  ['tomorrow at 9am, friday at 3pm', /not understood as a whole/],
  ['tomorrow at 25:00', /not understood as a whole/],
  ['tomorrow at 9am Europe/Berlin', /not understood as a whole/],
  ['last friday at 3pm', /not understood as a whole/],
  ['1795205415', /not understood as a whole/],
  ['in 1\u00a0hour', /not understood as a whole/],
  ['tomorrow', /names no time of day; use a time too/],
  ['Friday', /names no time of day/],
  ['12/01/2026 at 9am', /could be two dates/],
  ['1.12.2026 at 9am', /could be two dates/],
  ['at 9am ET tomorrow', /its time zone in the middle; use the zone as its last word/],
  ['2026-12-05', /is not a date and time; use a moment like `2026-08-05T11:52:01Z`/],
  ['2026-12-05T11:52:01', /has no offset, so it could be many moments; use `2026-12-05T11:52:01Z` if/],
  ['2026-12-05 11:52', /has no offset/],
  ['2026-11-31T11:52:01Z', /there is no moment/],
  ['2026-12-05T24:00:00Z', /there is no moment/],
  ['2026-12-05T11:52:01+25:00', /there is no moment/],
  ['2026-12-05T11:52:01Z and on', /is not a date and time/],
  ['in 31 days', /is more than 30 days ahead; use a moment within that time/],
  ['2026-12-20T16:30:15.251Z', /is more than 30 days ahead/],
  ['9999-12-31T23:59:59Z', /is more than 30 days ahead/],
  ['in 99999999 hours', /is more than 30 days ahead|not understood/],
  ['in 1 hour '.repeat(11), /it is 109 characters long; use at most 100/],
]

describe('scheduled_at', () => {
  for (const [text, moment, now] of UNDERSTOOD) {
    it(`"${text}" is ${moment}`, () => assert.equal(read(text, now), moment))
  }

  for (const [text, reason] of REFUSED) {
    it(`"${text}" is refused: ${reason.source}`, () => assert.match(read(text), reason))
  }

  it('is not guessed at: any text gives a moment within 30 days, or a reason in one line', () => {
    const words = fc.constantFrom(
      ...['in', '1', '99', 'hour', 'days', 'tomorrow', 'Friday', 'at', '9am', 'ET', 'UTC+2', 'last', 'and'],
      ...['2026-11-21', 'T10:00', 'Z', '+', ':', '/', '-', 'noon', 'next', 'week', 'ago', '25:61', '0'],
    )
    const text = fc.oneof(
      fc.array(words, { maxLength: 12 }).map((list) => list.join(' ')),
      fc.array(words, { maxLength: 30 }).map((list) => list.join('')),
      fc.string({ unit: 'binary', maxLength: 200 }),
    )
    fc.assert(
      fc.property(text, (given) => {
        const scheduled = readScheduledAt(given, Date.parse(NOW))
        if (scheduled.ok) assert.ok(scheduled.at <= Date.parse(NOW) + 30 * 86_400_000)
        else assert.match(scheduled.reason, /^[^\r\n\0]+; use [^\r\n\0]+$/)
        readMoment(given)
      }),
    )
  })
})

describe('a message', () => {
  const parse = (scheduledAt: unknown) =>
    parseMessage({ ...PLAIN, scheduled_at: scheduledAt }, undefined, Date.parse(NOW))

  it('holds its moment in UTC', () => {
    const parsed = parse('tomorrow at 9am ET')
    assert.equal(parsed.ok && parsed.message.scheduled_at, '2026-11-21T14:00:00.000Z')
  })

  it('whose moment has passed goes at once', () => {
    for (const text of ['2026-11-20T16:30:15.250Z', '5 minutes ago', '1999-01-01T00:00:00Z']) {
      const parsed = parse(text)
      assert.equal(parsed.ok && 'scheduled_at' in parsed.message, false, text)
      assert.ok(parsed.ok)
    }
  })

  it('is refused for a moment that is none, by the name of the field', () => {
    for (const given of ['soon', 7, null, {}, ['in 1 hour'], true]) {
      const parsed = parse(given)
      assert.ok(!parsed.ok)
      assert.deepEqual([parsed.problem.name, parsed.problem.field], ['validation_error', 'scheduled_at'])
    }
  })
})
