import type { Context } from 'hono'
import { ApiError } from '../errors.ts'
import { parseAddress } from '../message/address.ts'
import { excerpt } from '../message/message-text.ts'
import { readMoment } from '../message/scheduled-at.ts'
import { MESSAGE_STATES, type MessageState } from '../states.ts'
import type { AppDeps } from './deps.ts'
import { isEmailId } from './email-id.ts'
import { type Cursor, type EmailFilter, findEmails, isEmail } from './email-list-queries.ts'
import { LAST_EVENT, presentListed } from './email-view.ts'

const DEFAULT_LIMIT = 20
const MAX_LIMIT = 100

export const LIST_PARAMETERS = [
  'limit',
  'after',
  'before',
  'status',
  'last_event',
  'stream',
  'tag',
  'recipient',
  'accepted_after',
  'accepted_before',
] as const
export type ListParameters = Partial<Record<(typeof LIST_PARAMETERS)[number], string>>

const LAST_EVENTS: readonly string[] = [...new Set(Object.values(LAST_EVENT))]

/** `GET /emails`: a page of what was accepted, newest first. */
export async function listEmails(deps: AppDeps, c: Context): Promise<Response> {
  const given = readParameters(c)
  const limit = readLimit(given.limit)
  const filter = readFilter(given)
  const cursor = await readCursor(deps, given)
  // One more than asked for tells whether there are more; of a page before its cursor that is the newest.
  const found = await findEmails(deps.db, filter, cursor, limit + 1)
  const page = cursor?.direction === 'before' ? found.slice(-limit) : found.slice(0, limit)
  return c.json({ object: 'list', has_more: found.length > limit, data: page.map(presentListed) })
}

function readParameters(c: Context): ListParameters {
  const given: ListParameters = {}
  for (const [name, value] of new URL(c.req.url).searchParams) {
    const known = LIST_PARAMETERS.find((each) => each === name)
    if (known === undefined) {
      const names = LIST_PARAMETERS.map((each) => `\`${each}\``).join(', ')
      throw wrong(excerpt(name), `there is no such parameter; use ${names}`)
    }
    if (given[known] !== undefined) throw wrong(known, 'it is given twice; use it once')
    if (value === '') throw wrong(known, 'it is empty; use a value, or leave it out')
    given[known] = value
  }
  return given
}

function readLimit(given: string | undefined): number {
  if (given === undefined) return DEFAULT_LIMIT
  const limit = /^\d{1,3}$/.test(given) ? Number(given) : 0
  if (limit < 1 || limit > MAX_LIMIT) {
    throw wrong('limit', `it is \`${excerpt(given)}\`; use a whole number from 1 to ${MAX_LIMIT}`)
  }
  return limit
}

/** Which emails are meant; throws an ApiError that names the parameter at fault. */
export function readFilter(given: ListParameters): EmailFilter {
  const states = readStates(given)
  const terms = [readRecipient(given.recipient), readTag(given.tag)].filter((term) => term !== undefined)
  const acceptedAfter = readTime('accepted_after', given.accepted_after)
  const acceptedBefore = readTime('accepted_before', given.accepted_before)
  return {
    ...(states !== undefined && { states }),
    ...(given.stream !== undefined && { stream: readStream(given.stream) }),
    terms,
    ...(acceptedAfter !== undefined && { acceptedAfter }),
    ...(acceptedBefore !== undefined && { acceptedBefore }),
  }
}

/** Both may be given: what fits both is meant. */
function readStates({ status, last_event: lastEvent }: ListParameters): MessageState[] | undefined {
  if (status === undefined && lastEvent === undefined) return undefined
  if (status !== undefined && !MESSAGE_STATES.some((state) => state === status)) {
    throw wrong('status', `it is \`${excerpt(status)}\`; use one of ${MESSAGE_STATES.join(', ')}`)
  }
  if (lastEvent !== undefined && !LAST_EVENTS.includes(lastEvent)) {
    throw wrong('last_event', `it is \`${excerpt(lastEvent)}\`; use one of ${LAST_EVENTS.join(', ')}`)
  }
  return MESSAGE_STATES.filter(
    (state) =>
      (status === undefined || state === status) &&
      (lastEvent === undefined || LAST_EVENT[state] === lastEvent),
  )
}

function readStream(given: string): string {
  if (/^[a-z0-9_-]{1,64}$/.test(given)) return given
  throw wrong('stream', `\`${excerpt(given)}\` cannot be the name of a stream; use one of GET /streams`)
}

function readRecipient(given: string | undefined): string | undefined {
  if (given === undefined) return undefined
  const parsed = parseAddress(given)
  if (!parsed.ok) throw wrong('recipient', parsed.reason)
  return `to:${parsed.address.address.toLowerCase()}`
}

function readTag(given: string | undefined): string | undefined {
  if (given === undefined) return undefined
  const [, name, value] = /^([\w-]{1,256})(?::([\w-]{1,256}))?$/.exec(given) ?? []
  if (name === undefined) {
    throw wrong('tag', `\`${excerpt(given)}\` cannot be a tag; use \`name\` or \`name:value\``)
  }
  return value === undefined ? `tag:${name}` : `tag:${name}=${value}`
}

function readTime(
  parameter: 'accepted_after' | 'accepted_before',
  given: string | undefined,
): Date | undefined {
  if (given === undefined) return undefined
  const read = readMoment(given)
  if (!read.ok) throw wrong(parameter, read.reason)
  return new Date(read.at)
}

export async function readCursor(
  deps: Pick<AppDeps, 'db'>,
  { after, before }: ListParameters,
): Promise<Cursor | undefined> {
  if (after !== undefined && before !== undefined) {
    throw wrong('before', 'it cannot be used together with `after`; use one of them')
  }
  const id = after ?? before
  if (id === undefined) return undefined
  const direction = after !== undefined ? 'after' : 'before'
  if (!isEmailId(id) || !(await isEmail(deps.db, id))) {
    throw wrong(direction, `\`${excerpt(id)}\` is not the id of an email; use an \`id\` of this list`)
  }
  return { id, direction }
}

function wrong(parameter: string, rest: string): ApiError {
  return new ApiError('validation_error', `Invalid \`${parameter}\`: ${rest}.`)
}
