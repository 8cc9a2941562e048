import { filters as builtin, type FilterImplOptions, type Liquid } from 'liquidjs'
import { MAX_DATE_FORMAT_CHARS } from './limits.ts'
import { assertLength, RenderStop, written } from './meters.ts'

export type Handler = Exclude<FilterImplOptions, { raw: boolean }>
/** What the engine binds as `this` when it calls a filter. */
export type FilterScope = ThisParameterType<Handler>

const HTML_ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&#34;',
  "'": '&#39;',
}

/** What the HTML part's output goes through unless its last filter is marked raw. */
export function escapedHtml(value: unknown): string {
  return written(value).replace(/[&<>"']/g, (char) => HTML_ENTITIES[char] ?? char)
}

/** Our own versions of built-in filters, for every part. */
export function registerMailFilters(engine: Liquid): void {
  for (const name of ['date_to_xmlschema', 'date_to_rfc822', 'date_to_string', 'date_to_long_string']) {
    const handler = builtinHandler(name)
    engine.registerFilter(name, function (this: FilterScope, value: unknown, ...args: unknown[]) {
      return handler.call(this, inUtc(value), ...args)
    })
  }
  engine.registerFilter('date', dateFilter)
  engine.registerFilter('json', jsonFilter)
}

/**
 * In HTML, a value whose last filter has escaped it is not escaped again, so that templates written for engines that
 * do not escape read the same. `newline_to_br` escapes what it is given and adds its own markup.
 */
export function registerHtmlFilters(engine: Liquid): void {
  for (const name of ['escape', 'xml_escape', 'escape_once']) {
    engine.registerFilter(name, { raw: true, handler: builtinHandler(name) })
  }
  const escapeOnce = builtinHandler('escape_once')
  engine.registerFilter('newline_to_br', {
    raw: true,
    handler(this: FilterScope, value: unknown) {
      return written(escapeOnce.call(this, value)).replace(/\r?\n/g, '<br />\n')
    },
  })
}

export function builtinHandler(name: string): Handler {
  const filter = builtin[name]
  if (filter === undefined) throw new Error(`liquidjs has no filter "${name}"`)
  return typeof filter === 'function' ? filter : filter.handler
}

const DEFAULT_DATE_FORMAT = '%A, %B %-e, %Y at %-l:%M %P %z'
const MONTHS = 'January February March April May June July August September October November December'.split(
  ' ',
)
const DAYS = 'Monday Tuesday Wednesday Thursday Friday Saturday Sunday'.split(' ')
const builtinDate = builtinHandler('date')

function dateFilter(this: FilterScope, value: unknown, format?: unknown, zone?: unknown): unknown {
  const wanted = format === undefined || format === null ? DEFAULT_DATE_FORMAT : written(format)
  if (wanted.length > MAX_DATE_FORMAT_CHARS) {
    throw new RenderStop(
      'template_failed',
      `a date format is longer than ${MAX_DATE_FORMAT_CHARS} characters`,
    )
  }
  const date = inUtc(value)
  return builtinDate.call(this, date, withNames.call(this, wanted, date, zone), zone)
}

/**
 * Writes the names of months and days into the format. The engine builds an Intl.DateTimeFormat for each name,
 * which costs several times as much as the rest of a small order confirmation.
 */
function withNames(this: FilterScope, format: string, date: unknown, zone: unknown): string {
  if (!/%[aAbBh]/.test(format)) return format
  const numbers = /^(\d\d) ([1-7])$/.exec(written(builtinDate.call(this, date, '%m %u', zone)))
  if (numbers === null) return format
  const month = MONTHS[Number(numbers[1]) - 1] ?? ''
  const day = DAYS[Number(numbers[2]) - 1] ?? ''
  const names: Record<string, string> = {
    '%a': day.slice(0, 3),
    '%A': day,
    '%b': month.slice(0, 3),
    '%h': month.slice(0, 3),
    '%B': month,
  }
  return format.replace(/%[%aAbBh]/g, (code) => names[code] ?? code)
}

const NAMES_ITS_ZONE = /(?:z|gmt|utc|[+-]\d\d:?\d\d)$/i
const NOT_A_CALENDAR_TIME = /^(?:now|today|\d+)$/

/** A time written without a zone is UTC: the zone of the machine that renders must not show in the mail. */
function inUtc(value: unknown): unknown {
  if (typeof value !== 'string' || NAMES_ITS_ZONE.test(value) || NOT_A_CALENDAR_TIME.test(value)) return value
  const date = new Date(`${value}Z`)
  return Number.isNaN(date.getTime()) ? value : date
}

/** JSON without its optional indentation; what it writes, names of properties included, counts as one value. */
function jsonFilter(this: FilterScope, value: unknown): unknown {
  let chars = 0
  return JSON.stringify(value, (key, item: unknown) => {
    chars += key.length + (typeof item === 'string' ? item.length : 1)
    assertLength(chars)
    return item
  })
}
