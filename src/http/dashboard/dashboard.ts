import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { html } from 'hono/html'
import { ByteRoom } from '../../byte-room.ts'
import { isDatabaseUnavailable } from '../../db/connection-error.ts'
import { ApiError } from '../../errors.ts'
import type { AuthEnv } from '../auth.ts'
import { limitBodyTo } from '../body-limit.ts'
import type { AppDeps } from '../deps.ts'
import type { FailedAttempts } from '../failed-attempts.ts'
import { addAlerts } from './alerts.ts'
import { addAssets } from './assets.ts'
import { addDeadLetters } from './dead-letters.ts'
import { type DashboardEnv, type Page, type PageContext, show } from './frame.ts'
import { preparePage, requireOwnForm, requireSession } from './guard.ts'
import { addMessage } from './message.ts'
import { addMessages } from './messages.ts'
import { addOverview } from './overview.ts'
import { addProcesses } from './processes.ts'
import { addProviders } from './providers.ts'
import { createSessions } from './session.ts'
import { addSignIn } from './sign-in.ts'
import { addStreams } from './streams.ts'
import { addSuppressions } from './suppressions.ts'
import { addTemplates } from './templates.ts'

/** The largest form is the data of a template's preview. */
const MAX_FORM_BYTES = 512 * 1_024
/** Of all forms at once: anybody may post to the page to sign in. */
const FORMS_BYTES = 16 * 1_024 * 1_024

/**
 * The dashboard: pages rendered here, one file each, that work without scripts. Everything a page shows may have been
 * written by strangers, and `html` escapes it. What changes something is a POST of a form that carries the session's
 * token, and answers with a redirect to a page that says what came of it.
 */
export function dashboardRoutes(
  deps: AppDeps,
  shared: { readonly failures: FailedAttempts; readonly limitRate: MiddlewareHandler<AuthEnv> },
): Hono<DashboardEnv> {
  const routes = new Hono<DashboardEnv>()
  routes.onError((error, c) => showError(deps, error, c))
  const { publicUrl, hasInbox } = deps
  const sessions = createSessions(deps)
  const guard = { sessions, publicUrl, hasInbox }
  const limitForm = limitBodyTo(MAX_FORM_BYTES, 'of a form', new ByteRoom(FORMS_BYTES), 'arrived')
  for (const path of ['/', '/login', '/logout', '/dashboard/*']) {
    routes.use(path, preparePage(guard), limitForm)
  }
  addAssets(routes)
  for (const path of ['/', '/logout', '/dashboard/*']) {
    routes.use(path, requireSession(guard), shared.limitRate, requireOwnForm(guard))
  }
  addOverview(routes, { ...deps, sessions })
  addAlerts(routes, deps)
  addProviders(routes, deps)
  addStreams(routes, deps)
  addProcesses(routes, deps)
  addSignIn(routes, { ...deps, sessions, failures: shared.failures })
  addMessages(routes, deps)
  addMessage(routes, deps)
  addDeadLetters(routes, deps)
  addSuppressions(routes, deps)
  addTemplates(routes, deps)
  routes.get('/dashboard', (c) => c.redirect('/', 301))
  return routes
}

/** Whether an answer at this path is for a person. */
export function isDashboardPath(path: string): boolean {
  return ['/', '/login', '/logout', '/dashboard'].includes(path) || path.startsWith('/dashboard/')
}

/** What is answered at a path of the dashboard where there is nothing, or nothing for this method. */
export function showMissing(c: Context, allowed: readonly string[]): Response | Promise<Response> {
  if (allowed.length > 0) c.header('Allow', allowed.join(', '))
  const page: Page =
    allowed.length === 0
      ? {
          title: 'There is no such page',
          status: 404,
          body: html`<p>Begin at the <a href="/">overview</a>.</p>`,
        }
      : {
          title: 'This cannot be done here',
          status: 405,
          body: html`<p>This address takes ${allowed.join(', ')}. Nothing was done. Begin at the <a href="/">overview</a>.</p>`,
        }
  return show(c as PageContext, page)
}

function showError(deps: AppDeps, error: Error, c: PageContext): Response | Promise<Response> {
  if (error instanceof ApiError && error.status < 500) {
    if (error.retryAfterS !== undefined) c.header('Retry-After', String(error.retryAfterS))
    const status = error.status as NonNullable<Page['status']>
    const title = status === 404 ? 'Not found' : 'This did not work'
    return show(c, {
      title,
      status,
      body: html`<p>${error.message}</p><p>Nothing was done. <a href="/">Overview</a></p>`,
    })
  }
  deps.log.error({ path: c.req.routePath, error }, 'a page failed')
  if (isDatabaseUnavailable(error) || (error instanceof ApiError && error.status === 503)) {
    c.header('Retry-After', '2')
    return show(c, {
      title: 'The database cannot be reached',
      status: 503,
      body: html`<p>Mail is not lost by this, and moves on when it is back. Load this page again in a few seconds.</p>`,
    })
  }
  return show(c, {
    title: 'Something went wrong on our side',
    status: 500,
    body: html`<p>The log of Sluice has the details. <a href="/">Overview</a></p>`,
  })
}
