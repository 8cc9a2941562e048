import type { Context, MiddlewareHandler } from 'hono'
import { createMiddleware } from 'hono/factory'
import { matchedRoutes } from 'hono/route'
import { METHOD_NAME_ALL } from 'hono/router'
import type { AnsweredRequest } from '../metrics/http-requests.ts'

/** Tells of each request once its answer begins, whoever gave it: a route, an error, or nobody. */
export function measureRequests(tell: (request: AnsweredRequest) => void): MiddlewareHandler {
  return createMiddleware(async function measureRequest(c, next) {
    const startedAt = performance.now()
    await next()
    tell({
      method: c.req.method,
      route: patternOf(c),
      status: c.res.status,
      seconds: (performance.now() - startedAt) / 1_000,
    })
  })
}

/** Callers choose paths, so only those that are routes may become labels. */
function patternOf(c: Context): string {
  const route = matchedRoutes(c).at(-1)
  return route === undefined || route.method === METHOD_NAME_ALL ? 'none' : route.path
}
