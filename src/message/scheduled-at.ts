import * as en from 'chrono-node/en'
import { excerpt, isPrintableAscii } from './message-text.ts'

/** Longer ones mean nothing, and what reads them may take time that grows faster than their length. */
const MAX_CHARS = 100
const MAX_DAYS_AHEAD = 30
const MAX_AHEAD_MS = MAX_DAYS_AHEAD * 86_400_000

const MOMENT = 'a moment like `2026-08-05T11:52:01Z` or `2026-08-05T13:52:01+02:00`'
const RIGHT = `${MOMENT}, or a short form like \`in 1 hour\` or \`tomorrow at 9am\``

export type ScheduledAt =
  /** Milliseconds since the epoch; a moment that has passed means at once. */
  | { readonly ok: true; readonly at: number }
  /** Ends the sentence of a problem: why it is wrong, and what would be right. */
  | { readonly ok: false; readonly reason: string }

/**
 * Reads when a message is to go out: ISO 8601 with an offset, or one of Resend's short English forms, at most 30 days
 * after `now` (milliseconds since the epoch). Never throws, and never guesses: a text of which any part is not understood is refused.
 * Short forms are in UTC unless they name a zone.
 */
export function readScheduledAt(text: string, now: number): ScheduledAt {
  const trimmed = text.trim()
  if (trimmed.length > MAX_CHARS) {
    return refused(`it is ${trimmed.length} characters long`, `at most ${MAX_CHARS}`)
  }
  if (trimmed === '') return refused('it is empty')
  if (!isPrintableAscii(trimmed)) return notUnderstood(trimmed)
  const read = /^\d{4}-\d\d/.test(trimmed) ? readMoment(trimmed) : readShortForm(trimmed, now)
  if (!read.ok || read.at - now <= MAX_AHEAD_MS) return read
  return refused(
    `\`${excerpt(trimmed)}\` is more than ${MAX_DAYS_AHEAD} days ahead`,
    'a moment within that time',
  )
}

/** RFC 3339 section 5.6, and as Postgres writes it: a space for the T, an offset of hours alone. */
const ISO =
  /^(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?: ?(Z)|([+-])(\d\d):?(\d\d)?)?$/i

/** Any moment, in ISO 8601 with an offset and nothing else. */
export function readMoment(text: string): ScheduledAt {
  const [whole, year, month, day, hour, minute, second = 0, fraction = '', zulu, sign, offsetH, offsetM = 0] =
    ISO.exec(text) ?? []
  if (whole === undefined) return refused(`\`${excerpt(text)}\` is not a date and time`, MOMENT)
  if (zulu === undefined && sign === undefined) {
    return refused(`\`${text}\` has no offset, so it could be many moments`, `\`${text}Z\` if it is in UTC`)
  }
  const date = new Date(Date.UTC(Number(year), Number(month) - 1, Number(day)))
  // The 30th of February would be the 2nd of March.
  const isDate = date.getUTCMonth() === Number(month) - 1 && date.getUTCDate() === Number(day)
  const isTime = Number(hour) <= 23 && Number(minute) <= 59 && Number(second) <= 59
  const isOffset = sign === undefined || (Number(offsetH) <= 14 && Number(offsetM) <= 59)
  if (!isDate || !isTime || !isOffset) return refused(`there is no moment \`${text}\``, MOMENT)
  const ms = ((Number(hour) * 60 + Number(minute)) * 60 + Number(second)) * 1_000 + milliseconds(fraction)
  const offsetMs =
    sign === undefined ? 0 : (Number(offsetH) * 60 + Number(offsetM)) * 60_000 * (sign === '-' ? -1 : 1)
  return { ok: true, at: date.getTime() + ms - offsetMs }
}

function milliseconds(fraction: string): number {
  return Number(fraction.padEnd(3, '0').slice(0, 3))
}

/** Minutes east of UTC at a moment. */
type Clock = (at: number) => number

/** Abbreviations that mean a place, whose offset is another one in summer. */
const PLACES: ReadonlyMap<string, Intl.DateTimeFormat> = new Map(
  [
    ['ET', 'America/New_York'],
    ['CT', 'America/Chicago'],
    ['MT', 'America/Denver'],
    ['PT', 'America/Los_Angeles'],
    ['CET', 'Europe/Berlin'],
  ].map(([name = '', timeZone]) => [
    name,
    new Intl.DateTimeFormat('en-US', { timeZone, timeZoneName: 'longOffset' }),
  ]),
)

const ZONE_AT_END = / ((?:UTC|GMT)?[+-]\d\d?(?::?\d\d)?|[A-Z]{2,5})$/i

/**
 * Days and times are those of the clock that the zone names: "tomorrow at 9am PT" is tomorrow over there. So the
 * text without its zone is read by that clock, as if it were UTC, and the reading taken back to UTC.
 */
function readShortForm(text: string, now: number): ScheduledAt {
  const [tail = '', zone = ''] = ZONE_AT_END.exec(text) ?? []
  const clock = zone === '' ? undefined : clockOf(zone)
  if (clock === undefined) return parseShortForm(text, now)
  const offsetMs = (at: number) => clock(at) * 60_000
  const read = parseShortForm(text.slice(0, -tail.length), now + offsetMs(now))
  if (!read.ok) return read
  const about = read.at - offsetMs(now)
  // The clocks there may be changed between now and then; an hour from now is one all the same.
  return { ok: true, at: read.isRelative ? about : read.at - offsetMs(about) }
}

/** Undefined for a word that is no zone. */
function clockOf(zone: string): Clock | undefined {
  const place = PLACES.get(zone.toUpperCase())
  if (place !== undefined) return (at) => offsetAt(place, at)
  const [result] = en.casual.parse(`2026-01-01 12:00 ${zone}`, { timezone: 0 })
  const offset = result?.start.isCertain('timezoneOffset') ? result.start.get('timezoneOffset') : null
  return offset === null ? undefined : () => offset
}

function offsetAt(place: Intl.DateTimeFormat, at: number): number {
  const name = place.formatToParts(at).find(({ type }) => type === 'timeZoneName')?.value ?? ''
  const [, sign, hours, minutes] = /([+-])(\d\d):(\d\d)/.exec(name) ?? []
  const size = Number(hours ?? 0) * 60 + Number(minutes ?? 0)
  return sign === '-' ? -size : size
}

type Refused = ScheduledAt & { readonly ok: false }
type ShortForm = (ScheduledAt & { readonly ok: true; readonly isRelative: boolean }) | Refused

/** A short form without a zone; `now` and the answer are by one and the same clock. */
function parseShortForm(text: string, now: number): ShortForm {
  // "last Friday" would be read as the next one.
  if (/\b(?:last|past|previous)\b/i.test(text)) return notUnderstood(text)
  const reference = { instant: new Date(now), timezone: 0 }
  const [result, ...more] = en.casual.parse(text, reference, { forwardDate: true })
  if (result === undefined || more.length > 0 || result.text !== text || result.end)
    return notUnderstood(text)
  const tags = result.tags()
  if (tags.has('parser/SlashDateFormatParser')) {
    return refused(`\`${text}\` could be two dates, as the day or the month may come first`)
  }
  // In two hours, in two days; not in two days at 9am.
  const isRelative = tags.has('result/relativeDate') && !tags.has('parser/ENTimeExpressionParser')
  if (!isRelative && !result.start.isCertain('hour')) {
    return refused(`\`${text}\` names no time of day`, 'a time too, as in `tomorrow at 9am`')
  }
  if (result.start.get('timezoneOffset')) {
    return refused(`\`${text}\` has its time zone in the middle`, 'the zone as its last word')
  }
  const at = result.date().getTime()
  return Number.isNaN(at) ? notUnderstood(text) : { ok: true, at, isRelative }
}

function notUnderstood(text: string): Refused {
  return refused(`\`${excerpt(text)}\` is not understood as a whole`)
}

function refused(why: string, right: string = RIGHT): Refused {
  return { ok: false, reason: `${why}; use ${right}` }
}
