import { setTimeout as delay } from 'node:timers/promises'
import type { Context } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { readScheduledAt } from '../message/scheduled-at.ts'
import type { MessageState } from '../states.ts'
import { parseBody, readJson } from './body.ts'
import type { AppDeps } from './deps.ts'
import { emailIdOf, emailNotFound } from './email-id.ts'
import * as queries from './queries.ts'

/** A message is moved from the door within milliseconds; so long we wait for one that was accepted just now. */
const DOOR_WAIT_MS = 2_000
const FIRST_PAUSE_MS = 20

export const rescheduleSchema = z.strictObject({
  scheduled_at: z.string('use a moment like `2026-08-05T11:52:01Z`, or a short form like `in 1 hour`'),
})

/** `PATCH /emails/:id`: to another moment. */
export async function rescheduleEmail(deps: AppDeps, c: Context): Promise<Response> {
  const id = emailIdOf(c)
  const { scheduled_at: given } = parseBody(rescheduleSchema, await readJson(c))
  const read = readScheduledAt(given, deps.clock.now())
  if (!read.ok) throw new ApiError('validation_error', `Invalid \`scheduled_at\`: ${read.reason}.`)
  const state = await change(deps, id, () => queries.reschedule(deps.db, id, new Date(read.at)))
  if (state !== 'scheduled') throw tooLate('rescheduled', state)
  return c.json({ object: 'email', id })
}

/** `POST /emails/:id/cancel`; a second time is no error. */
export async function cancelEmail(deps: AppDeps, c: Context): Promise<Response> {
  const id = emailIdOf(c)
  const state = await change(deps, id, () => queries.cancel(deps.db, id))
  if (state !== 'canceled') throw tooLate('canceled', state)
  return c.json({ object: 'email', id })
}

/** The state the email is in after the change, or because of which there was none. */
async function change(
  deps: AppDeps,
  id: string,
  attempt: () => Promise<MessageState | null>,
): Promise<MessageState> {
  const until = performance.now() + DOOR_WAIT_MS
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs *= 2) {
    const state = await attempt()
    if (state !== null) return state
    // Only now: no index leads to a row at the doors, and in a flood they hold many.
    if (!(await queries.isAtTheDoor(deps.db, id))) {
      // It may have gone through the door between the two.
      const late = await attempt()
      if (late !== null) return late
      throw emailNotFound()
    }
    if (performance.now() > until) {
      throw new ApiError(
        'service_unavailable',
        'The email was accepted a moment ago and is not stored yet. Repeat the request in a second.',
        { retryAfterS: 1 },
      )
    }
    await delay(pauseMs)
  }
}

function tooLate(what: string, state: MessageState): ApiError {
  return new ApiError(
    'validation_error',
    `This email can no longer be ${what}: it is \`${state}\`. Only what is \`scheduled\`, \`accepted\`, \`queued\` or \`deferred\` can.`,
  )
}
