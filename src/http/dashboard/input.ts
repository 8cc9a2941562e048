import { ApiError } from '../../errors.ts'
import { excerpt } from '../../message/message-text.ts'
import { readMoment } from '../../message/scheduled-at.ts'

/** What people type into fields, read for the database. */

const MAX_CHARS = 600

/** One line without what Postgres cannot hold; undefined when there is nothing in it. */
export function wordsIn(given: URLSearchParams, name: string): string | undefined {
  const words = (given.get(name) ?? '').replaceAll('\0', '').toWellFormed().trim().slice(0, MAX_CHARS).trim()
  return words === '' ? undefined : words.toWellFormed()
}

/** `datetime-local` gives no offset; all times here are UTC. */
export function momentIn(given: URLSearchParams, name: string, label: string): Date | undefined {
  const words = wordsIn(given, name)
  if (words === undefined) return undefined
  const read = readMoment(/[zZ]|[+-]\d\d(?::?\d\d)?$/.test(words.slice(10)) ? words : `${words}Z`)
  if (!read.ok) throw new ApiError('validation_error', `${label}: ${read.reason}.`)
  return new Date(read.at)
}

export function numberIn(
  given: URLSearchParams,
  name: string,
  rule: { readonly label: string; readonly min: number; readonly max: number; readonly isWhole?: boolean },
): number {
  const words = wordsIn(given, name) ?? ''
  const value = /^\d{1,9}(?:\.\d{1,6})?$/.test(words) ? Number(words) : Number.NaN
  const fits = value >= rule.min && value <= rule.max && (!rule.isWhole || Number.isInteger(value))
  if (fits) return value
  throw new ApiError(
    'validation_error',
    `${rule.label}: “${excerpt(words)}” is not a ${rule.isWhole ? 'whole ' : ''}number from ${rule.min} to ${rule.max}.`,
  )
}

/** As a `datetime-local` field takes it. */
export function fieldMoment(at: Date | undefined): string {
  return at === undefined ? '' : at.toISOString().slice(0, 16)
}

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

export function idIn(given: URLSearchParams, name: string): string {
  const id = given.get(name) ?? ''
  if (UUID.test(id)) return id.toLowerCase()
  throw new ApiError('validation_error', 'This form names nothing that could be meant. Load the page again.')
}

export function parametersOf(url: string): URLSearchParams {
  return new URL(url).searchParams
}
