import { randomUUIDv7 } from 'node:crypto'
import { type Context, Hono } from 'hono'
import { DEFAULT_STREAM, type Stream } from '../catalog.ts'
import { ApiError } from '../errors.ts'
import { MAX_MESSAGE_BYTES, type Message } from '../message.ts'
import { parseMessage } from '../message-schema.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { readJson } from './body.ts'
import type { AppDeps } from './deps.ts'
import { cancelEmail, rescheduleEmail } from './email-changes.ts'
import { emailIdOf, emailNotFound } from './email-id.ts'
import { listEmails } from './email-list.ts'
import { presentEmail } from './email-view.ts'
import { checkMay } from './permission.ts'
import { findEmail, isAtTheDoor } from './queries.ts'

const MAX_KEY_LENGTH = 256
const MAX_SOURCE_LENGTH = 200

/** `/emails`: one handed in, found again, listed, moved to another time, and canceled. */
export function emailRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.post('/', requireScope('send'), (c) => sendEmail(deps, c))
  routes.get('/', requireScope('read'), (c) => listEmails(deps, c))
  routes.get('/:id', requireScope('read'), async (c) => {
    const id = emailIdOf(c)
    const email = await findEmail(deps.db, id)
    if (email !== undefined) return c.json(presentEmail(email))
    if (await isAtTheDoor(deps.db, id)) {
      return c.json({ object: 'email', id, last_event: 'queued', status: 'accepted', timeline: [] })
    }
    // It may have gone through the door between the two looks.
    const moved = await findEmail(deps.db, id)
    if (moved === undefined) throw emailNotFound()
    return c.json(presentEmail(moved))
  })
  routes.patch('/:id', requireScope('operate'), (c) => rescheduleEmail(deps, c))
  routes.post('/:id/cancel', requireScope('operate'), (c) => cancelEmail(deps, c))
  return routes
}

async function sendEmail(deps: AppDeps, c: Context<AuthEnv>): Promise<Response> {
  const idempotencyKey = readIdempotencyKey(c)
  const mayBuffer = readDurability(c) === 'buffered'
  const body = await readJson(c)
  const parsed = parseMessage(body)
  if (!parsed.ok) throw new ApiError(parsed.problem.name, parsed.problem.message)
  checkMay(c.get('caller'), parsed.message, parsed.message.stream ?? DEFAULT_STREAM)
  const stream = streamOf(deps, parsed.message)
  // Put into words again, not passed on: one key each, no byte-order mark, nothing but JSON.
  const message = JSON.stringify(body)
  // Words can be longer than what was given: 1e20 is written out. Refused by the door, it would fail its neighbours.
  if (Buffer.byteLength(message) > MAX_MESSAGE_BYTES) {
    throw new ApiError('payload_too_large', `The email is larger than ${MAX_MESSAGE_BYTES} bytes as JSON.`)
  }
  const accepted = await deps.accept(
    {
      id: randomUUIDv7(),
      stream: stream.name,
      priority: parsed.message.priority ?? stream.priority,
      idempotencyKey,
      // Well-formed: half of a surrogate pair would fail the statement that everybody's rows share.
      source: `api key ${c.get('caller').name}`.slice(0, MAX_SOURCE_LENGTH).toWellFormed(),
      message,
      parsed: parsed.message,
    },
    { mayBuffer, timeoutMs: deps.acceptTimeoutMs },
  )
  c.header('Sluice-Durability', accepted.durability)
  if (accepted.isReplay) c.header('Idempotent-Replayed', 'true')
  return c.json({ id: accepted.id })
}

function streamOf(deps: AppDeps, message: Message): Stream {
  const { streams } = deps.catalog.current
  const name = message.stream ?? DEFAULT_STREAM
  const stream = streams.get(name)
  if (stream !== undefined) return stream
  throw new ApiError(
    'validation_error',
    `Invalid \`stream\`: there is no stream \`${name}\`; the streams are ${[...streams.keys()].join(', ')}.`,
  )
}

function readIdempotencyKey(c: Context): string | null {
  const key = c.req.header('Idempotency-Key')
  if (key === undefined) return null
  if (key.length >= 1 && key.length <= MAX_KEY_LENGTH) return key
  throw new ApiError(
    'invalid_idempotency_key',
    `The \`Idempotency-Key\` must have 1 to ${MAX_KEY_LENGTH} characters.`,
  )
}

function readDurability(c: Context): 'durable' | 'buffered' {
  const wish = c.req.header('Sluice-Durability') ?? 'durable'
  if (wish === 'durable' || wish === 'buffered') return wish
  throw new ApiError('validation_error', 'The header `Sluice-Durability` must be `durable` or `buffered`.')
}
