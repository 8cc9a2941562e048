import { type Context, Hono } from 'hono'
import { keepAttachments } from '../attachment-store.ts'
import { reached } from '../crash-point.ts'
import { ApiError } from '../errors.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { sendBatch } from './batch.ts'
import { readJson } from './body.ts'
import { createBulkSender } from './bulk.ts'
import type { AppDeps } from './deps.ts'
import { cancelEmail, rescheduleEmail } from './email-changes.ts'
import { emailIdOf, emailNotFound } from './email-id.ts'
import { listEmails } from './email-list.ts'
import { presentEmail, presentWaiting } from './email-view.ts'
import { findAtTheDoor, findEmail } from './queries.ts'
import { asApiError, readIdempotencyKey, readSubmission } from './submission.ts'

/** `/emails`: one handed in, or many (batch.ts, bulk.ts), found again, listed, moved to another time, and canceled. */
export function emailRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  const sendBulk = createBulkSender(deps)
  routes.post('/', requireScope('send'), (c) => sendEmail(deps, c))
  routes.get('/', requireScope('read'), (c) => listEmails(deps, c))
  routes.post('/batch', requireScope('send'), (c) => sendBatch(deps, c))
  routes.post('/bulk', requireScope('send'), sendBulk)
  routes.get('/:id', requireScope('read'), async (c) => {
    const id = emailIdOf(c)
    const email = await findEmail(deps.db, id)
    if (email !== undefined) return c.json(presentEmail(email))
    const waiting = await findAtTheDoor(deps.db, id)
    if (waiting !== undefined) return c.json(presentWaiting(deps, waiting))
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
  deps.admit()
  const idempotencyKey = readIdempotencyKey(c)
  const mayBuffer = readDurability(c) === 'buffered'
  const read = readSubmission(deps, await readJson(c), { caller: c.get('caller'), idempotencyKey })
  if (!read.ok) throw asApiError(read.problem)
  deps.admit(read.stream)
  // Before the row that names them: a message never waits for its attachments.
  if (read.contents.length > 0) {
    await keepAttachments(deps.db, read.contents)
    reached('intake.attachments-kept')
  }
  const accepted = await deps.accept(read.submission, { mayBuffer, timeoutMs: deps.acceptTimeoutMs })
  // With plain headers, which go to node as they are: to Hono's own, as `c.json` has them, each is checked and sorted in.
  return new Response(JSON.stringify({ id: accepted.id }), {
    headers: {
      'Content-Type': 'application/json',
      'Sluice-Durability': accepted.durability,
      ...(accepted.isReplay && { 'Idempotent-Replayed': 'true' }),
    },
  })
}

function readDurability(c: Context): 'durable' | 'buffered' {
  const wish = c.req.header('Sluice-Durability') ?? 'durable'
  if (wish === 'durable' || wish === 'buffered') return wish
  throw new ApiError('validation_error', 'The header `Sluice-Durability` must be `durable` or `buffered`.')
}
