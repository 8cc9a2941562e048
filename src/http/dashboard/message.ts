import type { Hono } from 'hono'
import { ApiError } from '../../errors.ts'
import type { AppDeps } from '../deps.ts'
import { emailIdOf } from '../email-id.ts'
import { presentEmail, presentWaiting } from '../email-view.ts'
import { MAIL_HTML_POLICY } from '../mail-html.ts'
import { findAtTheDoor, findEmail } from '../queries.ts'
import { type DashboardEnv, mayRead, show } from './frame.ts'
import { addMessageActions } from './message-actions.ts'
import { messagePage, type ShownMessage } from './message-page.ts'
import { factsOf } from './message-queries.ts'

type Deps = Pick<AppDeps, 'clock' | 'db' | 'log' | 'catalog' | 'messageLimits'>

/** `/dashboard/messages/:id`: where it stands and why, what happened to it, and what can be done. */
export function addMessage(routes: Hono<DashboardEnv>, deps: Deps): void {
  const path = '/dashboard/messages/:id'
  routes.get(path, async (c) => {
    const message = await findMessage(deps, emailIdOf(c))
    return show(c, messagePage(message, c.get('session')))
  })
  routes.get(`${path}/html`, async (c) => {
    if (!mayRead(c.get('session'))) throw withheld()
    const { email, facts } = await findMessage(deps, emailIdOf(c))
    if (facts.is_sensitive !== false) throw new ApiError('not_found', 'What is in this message is not shown.')
    c.header('Content-Security-Policy', MAIL_HTML_POLICY)
    c.header('Referrer-Policy', 'no-referrer')
    return c.html(email.html ?? '')
  })
  addMessageActions(routes, deps)
}

async function findMessage(deps: Deps, id: string): Promise<ShownMessage> {
  const known = (await emailOf(deps, id)) ?? (await emailAtTheDoor(deps, id)) ?? (await emailOf(deps, id))
  const facts = await factsOf(deps.db, id)
  if (known === undefined || facts === undefined) {
    throw new ApiError('not_found', facts?.why ?? 'No message has this id.')
  }
  return { ...known, facts }
}

type Known = Pick<ShownMessage, 'email' | 'given'>

async function emailOf({ db }: Deps, id: string): Promise<Known | undefined> {
  const email = await findEmail(db, id)
  return email && { email: presentEmail(email), given: email.message }
}

/** For milliseconds, usually; it may go through the door between two looks. */
async function emailAtTheDoor(deps: Deps, id: string): Promise<Known | undefined> {
  const waiting = await findAtTheDoor(deps.db, id)
  return waiting && { email: presentWaiting(deps, waiting), given: waiting.message }
}

function withheld(): ApiError {
  const words = 'What is in messages is shown to keys of scope full; this one has operate.'
  return new ApiError('restricted_api_key', words, { status: 403 })
}
