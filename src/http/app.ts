import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { METHOD_NAME_ALL } from 'hono/router'
import { ByteRoom } from '../byte-room.ts'
import { isDatabaseUnavailable } from '../db/connection-error.ts'
import { sqlState } from '../db/sqlstate.ts'
import { ApiError } from '../errors.ts'
import { Seldom } from '../seldom.ts'
import { UNSUBSCRIBE_PATH } from '../unsubscribe-links.ts'
import { alertTargetRoutes } from './alert-targets.ts'
import { alertRoutes, alertRuleRoutes } from './alerts.ts'
import { apiKeyRoutes } from './api-keys.ts'
import { authenticate } from './auth.ts'
import { limitBodyTo } from './body-limit.ts'
import { providerRoutes, streamRoutes } from './control.ts'
import { dashboardRoutes, isDashboardPath, showMissing } from './dashboard/dashboard.ts'
import { deadLetterRoutes } from './dead-letters.ts'
import type { AppDeps } from './deps.ts'
import { docsRoutes } from './docs-page.ts'
import { emailRoutes } from './emails.ts'
import { erasureRoutes } from './erasures.ts'
import { FailedAttempts } from './failed-attempts.ts'
import { healthRoutes } from './health.ts'
import { inboxRoutes } from './inbox.ts'
import { mailReportRoutes } from './mail-reports.ts'
import { measureRequests } from './measure-requests.ts'
import { metricsRoutes } from './metrics.ts'
import { openApiRoutes } from './openapi-file.ts'
import { limitRequests, RequestRates } from './request-rate.ts'
import { KeepingRouter } from './router.ts'
import { scaleRoutes } from './scale.ts'
import { statsRoutes } from './stats.ts'
import { suppressionImportRoutes } from './suppression-csv.ts'
import { suppressionRoutes } from './suppressions.ts'
import { templateRoutes } from './templates.ts'
import { unsubscribeRoutes } from './unsubscribe.ts'
import { webhookEndpointRoutes } from './webhook-endpoints.ts'
import { webhookSourceRoutes } from './webhook-sources.ts'
import { MAX_WEBHOOK_BYTES, webhookRoutes } from './webhooks.ts'

/** Has a limit of its own, and is not held in memory (see bulk.ts). */
const BULK_PATH = '/emails/bulk'
/** Only a message may bring attachments: no other body needs more. */
const OTHER_BODY_BYTES = 5 * 1_024 * 1_024
/** Of all bodies being read or worked on; each is held several times over: as text, as JSON, decoded, on its way. */
const BODIES_BYTES = 192 * 1_024 * 1_024
/** Of what is not proved yet to come from a provider. A room of its own: strangers must not use up that of the API. */
const WEBHOOK_BYTES = 32 * 1_024 * 1_024

const API_PATHS = [
  '/emails',
  '/templates',
  '/streams',
  '/providers',
  '/dead-letters',
  '/stats',
  '/scale',
  '/alerts',
  '/alert-rules',
  '/alert-targets',
  '/suppressions',
  '/erasures',
  '/api-keys',
  '/webhook-sources',
  '/webhooks',
]

export type ServiceDeps = Pick<AppDeps, 'db' | 'log' | 'metrics' | 'onRequest'>

/** The REST API in Resend's shape, the dashboard, and in development the local inbox. */
export function createApp(deps: AppDeps): Hono {
  const app = createServiceApp(deps)
  app.route('/', openApiRoutes(app))
  app.route('/docs', docsRoutes())
  app.route(UNSUBSCRIBE_PATH, unsubscribeRoutes(deps))
  if (deps.hasInbox) app.route('/inbox', inboxRoutes({ db: deps.db }))

  // Before the API's own paths: what comes here has no key.
  const failures = new FailedAttempts()
  const mailRoom = new ByteRoom(WEBHOOK_BYTES)
  app.route('/webhooks/dsn', mailReportRoutes({ ...deps, failures, room: mailRoom }))
  const limitWebhook = limitBodyTo(MAX_WEBHOOK_BYTES, 'of a webhook', new ByteRoom(WEBHOOK_BYTES), 'arrived')
  app.route('/webhooks', webhookRoutes(deps, limitWebhook))

  const authenticated = authenticate(deps.keyring, failures)
  const limitRate = limitRequests(new RequestRates(deps.db))
  app.route('/', dashboardRoutes(deps, { failures, limitRate }))
  const bodies = new ByteRoom(BODIES_BYTES)
  const limitWhole = limitBodyTo(deps.maxBodyBytes, 'set by SLUICE_MAX_BODY_BYTES', bodies)
  const limitMail: MiddlewareHandler = (c, next) => (c.req.path === BULK_PATH ? next() : limitWhole(c, next))
  const limitOther = limitBodyTo(Math.min(deps.maxBodyBytes, OTHER_BODY_BYTES), 'of all but mail', bodies)
  // Before the limit on bodies: an import is read as it streams, with a limit of its own.
  app.use('/suppressions/import', authenticated, limitRate)
  app.route('/suppressions/import', suppressionImportRoutes(deps))

  for (const path of API_PATHS) {
    // Takes in the path itself: given both, every request would be judged, and counted, twice.
    app.use(`${path}/*`, authenticated, limitRate, path === '/emails' ? limitMail : limitOther)
  }
  app.route('/emails', emailRoutes(deps))
  app.route('/templates', templateRoutes(deps))
  app.route('/streams', streamRoutes(deps))
  app.route('/providers', providerRoutes(deps))
  app.route('/dead-letters', deadLetterRoutes(deps))
  app.route('/stats', statsRoutes(deps))
  app.route('/scale', scaleRoutes(deps))
  app.route('/alerts', alertRoutes(deps))
  app.route('/alert-rules', alertRuleRoutes(deps))
  app.route('/alert-targets', alertTargetRoutes(deps))
  app.route('/suppressions', suppressionRoutes(deps))
  app.route('/erasures', erasureRoutes(deps))
  app.route('/api-keys', apiKeyRoutes(deps))
  app.route('/webhook-sources', webhookSourceRoutes(deps))
  app.route('/webhooks', webhookEndpointRoutes(deps))
  return app
}

/** What a process shows of itself to those who watch it, without a key; all there is on SLUICE_METRICS_PORT. */
export function createServiceApp(deps: ServiceDeps): Hono {
  const app = new Hono({ router: new KeepingRouter() })
  if (deps.onRequest !== undefined) app.use(measureRequests(deps.onRequest))
  const failures = new Seldom(deps.log)
  app.onError((error, c) => answerError(deps, failures, error, c))
  app.notFound((c) => answerNotFound(app, c))
  app.route('/', healthRoutes(deps))
  if (deps.metrics !== 'elsewhere') app.route('/metrics', metricsRoutes(deps.metrics))
  return app
}

/** RFC 9110 section 15.5.6: a path that is known for other methods says for which. */
function answerNotFound(app: Hono, c: Context): Response | Promise<Response> {
  const allowed = methodsAt(app, c.req.path)
  if (isDashboardPath(c.req.path)) return showMissing(c, allowed.includes(c.req.method) ? [] : allowed)
  if (allowed.length === 0 || allowed.includes(c.req.method)) {
    return respond(
      c,
      new ApiError(
        'not_found',
        `There is nothing at ${c.req.method} ${c.req.path}; GET /docs shows what there is.`,
      ),
    )
  }
  const list = allowed.join(', ')
  c.header('Allow', list)
  return respond(
    c,
    new ApiError('method_not_allowed', `${c.req.path} does not take ${c.req.method}; it takes ${list}.`),
  )
}

function methodsAt(app: Hono, path: string): string[] {
  const methods = new Set<string>()
  for (const route of app.routes) {
    // Middleware stands under every method, and says nothing of what is there.
    if (route.method !== METHOD_NAME_ALL && patternOf(route.path).test(path)) methods.add(route.method)
  }
  if (methods.has('GET')) methods.add('HEAD')
  return [...methods].sort()
}

/** As the router reads it: `:name` is one segment, `:name{…}` one that fits. */
function patternOf(path: string): RegExp {
  const pattern = path.replace(
    /:\w+(?:\{((?:[^{}]|\{[^{}]*\})*)\})?|[.*+]/g,
    (part: string, form?: string) => (part.startsWith(':') ? `(?:${form ?? '[^/]+'})` : `\\${part}`),
  )
  return new RegExp(`^${pattern}$`)
}

function answerError(deps: Pick<AppDeps, 'log'>, failures: Seldom, error: Error, c: Context): Response {
  if (error instanceof ApiError || isDatabaseUnavailable(error)) {
    const answer = error instanceof ApiError ? error : unavailable(error)
    if (answer.status >= 500) noteFailure(failures, answer, c)
    return respond(c, answer)
  }
  deps.log.error({ path: c.req.routePath, error }, 'request failed')
  return respond(
    c,
    new ApiError('application_error', 'Something went wrong on our side; the log of Sluice has the details.'),
  )
}

function unavailable(cause: Error): ApiError {
  return new ApiError(
    'service_unavailable',
    'The database cannot do this at the moment: it is away, or has no room or connection left. Try again in a few seconds.',
    { retryAfterS: 2, cause },
  )
}

/** While the database is away every request fails with the same few words. */
function noteFailure(failures: Seldom, { code, cause }: ApiError, c: Context): void {
  const path = c.req.routePath
  const reason = sqlState(cause) ?? (cause instanceof Error ? cause.name : '')
  failures.tell('warn', `${path} ${code} ${reason}`, { path, code, error: cause }, 'request failed')
}

function respond(c: Context, error: ApiError): Response {
  if (error.retryAfterS !== undefined) c.header('Retry-After', String(error.retryAfterS))
  return c.json(
    { statusCode: error.status, name: error.code, message: error.message },
    error.status as Parameters<typeof c.json>[1] & number,
  )
}
