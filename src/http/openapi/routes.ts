import type { Hono } from 'hono'
import { METHOD_NAME_ALL } from 'hono/router'
import type { KeyScope } from '../../keys/keys.ts'
import { scopesOf } from '../auth.ts'

/** A route of the API as the router has it. */
export type ApiRoute = {
  readonly method: string
  readonly path: string
  /** Beside `full`; undefined when no API key is asked for. */
  readonly scopes: readonly KeyScope[] | undefined
}

/** Pages for people and what these load: no part of the API. */
const PAGES = /^\/$|^\/(?:inbox|docs|login|logout|dashboard)(?:\/|$)/

/** Only ever answers that there is nothing. */
const NOTHING_THERE: ReadonlySet<string> = new Set(['POST /webhooks/:kind/:endpoint'])

/** Every route but pages, in the order in which they were added. */
export function apiRoutes(app: Pick<Hono, 'routes'>): ApiRoute[] {
  const routes = new Map<string, ApiRoute>()
  for (const { method, path, handler } of app.routes) {
    // Middleware, what is HTTP's own, and pages.
    if (method === METHOD_NAME_ALL || method === 'OPTIONS' || PAGES.test(path)) continue
    const name = nameOf({ method, path })
    if (NOTHING_THERE.has(name)) continue
    // A route stands there once for each of its handlers; one of them may ask for a scope.
    routes.set(name, { method, path, scopes: scopesOf(handler) ?? routes.get(name)?.scopes })
  }
  return [...routes.values()]
}

/** What a route and its operation have in common: the forms that a route asks of its parameters are left out. */
export function nameOf({ method, path }: { readonly method: string; readonly path: string }): string {
  return `${method} ${path.replaceAll(/(:\w+)\{(?:[^{}]|\{[^{}]*\})*\}/g, '$1')}`
}
