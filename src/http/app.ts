import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { isDatabaseAway } from '../db/sqlstate.ts'
import { ApiError } from '../errors.ts'
import { authenticate } from './auth.ts'
import type { AppDeps } from './deps.ts'
import { emailRoutes } from './emails.ts'
import { healthRoutes } from './health.ts'
import { inboxRoutes } from './inbox.ts'
import { templateRoutes } from './templates.ts'

/** The REST API in Resend's shape, and in development the local inbox. */
export function createApp(deps: AppDeps): Hono {
  const app = new Hono()
  app.onError((error, c) => answerError(deps, error, c))
  app.notFound((c) =>
    respond(c, new ApiError('not_found', `There is nothing at ${c.req.method} ${c.req.path}.`)),
  )
  app.route('/', healthRoutes(deps))
  if (deps.hasInbox) {
    app.get('/', (c) => c.redirect('/inbox'))
    app.route('/inbox', inboxRoutes({ db: deps.db }))
  }

  const limitBody = bodyLimit({
    maxSize: deps.maxBodyBytes,
    onError: () => {
      throw new ApiError(
        'payload_too_large',
        `The request body is larger than ${deps.maxBodyBytes} bytes, the limit set by SLUICE_MAX_BODY_BYTES.`,
      )
    },
  })
  for (const path of ['/emails', '/emails/*', '/templates', '/templates/*']) {
    app.use(path, authenticate(deps.keyring), limitBody)
  }
  app.route('/emails', emailRoutes(deps))
  app.route('/templates', templateRoutes(deps))
  return app
}

function answerError(deps: AppDeps, error: Error, c: Context): Response {
  if (error instanceof ApiError) {
    if (error.status >= 500)
      deps.log.warn({ path: c.req.routePath, code: error.code, error: error.cause }, 'request failed')
    return respond(c, error)
  }
  deps.log.error({ path: c.req.routePath, error }, 'request failed')
  const isAway = isDatabaseAway(error) && isDriverError(error)
  return respond(
    c,
    isAway
      ? new ApiError(
          'service_unavailable',
          'The database cannot be reached at the moment. Try again in a few seconds.',
          {
            retryAfterS: 2,
          },
        )
      : new ApiError(
          'application_error',
          'Something went wrong on our side; the log of Sluice has the details.',
        ),
  )
}

/** Errors of sockets and of the driver carry a code or come from its pool; a TypeError of ours does not. */
function isDriverError(error: Error): boolean {
  return !(error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError)
}

function respond(c: Context, error: ApiError): Response {
  if (error.retryAfterS !== undefined) c.header('Retry-After', String(error.retryAfterS))
  return c.json(
    { statusCode: error.status, name: error.code, message: error.message },
    error.status as Parameters<typeof c.json>[1] & number,
  )
}
