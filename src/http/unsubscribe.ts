import { type Context, Hono } from 'hono'
import { createMiddleware } from 'hono/factory'
import type { Unsubscription } from '../unsubscribe-links.ts'
import type { AppDeps } from './deps.ts'
import { askPage, donePage, UNSUBSCRIBE_PAGE_POLICY, unknownPage } from './unsubscribe-page.ts'

type Env = { Variables: { unsubscription: Unsubscription } }

/**
 * `/u/:token`, for recipients and their mail programs; the token is the only proof that is asked for. Looking changes
 * nothing, since scanners open every link of a mail. A POST unsubscribes, whatever its body (RFC 8058 section 3.2: no
 * cookies, no redirect), and may be repeated.
 */
export function unsubscribeRoutes(deps: Pick<AppDeps, 'readUnsubscribeToken' | 'unsubscribe'>): Hono<Env> {
  const routes = new Hono<Env>()
  routes.use('*', withPageHeaders)
  routes.options('/:token', (c) => c.body(null, 204, { Allow: 'GET, HEAD, POST, OPTIONS' }))
  const readToken = createMiddleware<Env>(async (c, next) => {
    const unsubscription = deps.readUnsubscribeToken(c.req.param('token') ?? '')
    if (unsubscription === undefined) return c.html(unknownPage(), 404)
    c.set('unsubscription', unsubscription)
    await next()
    return undefined
  })
  routes.get('/:token', readToken, (c) => c.html(askPage(c.get('unsubscription').address)))
  routes.post('/:token', readToken, async (c) => {
    const unsubscription = c.get('unsubscription')
    await deps.unsubscribe(unsubscription)
    return c.html(donePage(unsubscription.address))
  })
  return routes
}

/** The address of the page is a secret between us and the recipient: it is not cached, indexed or passed on. */
async function withPageHeaders(c: Context, next: () => Promise<void>): Promise<void> {
  await next()
  c.header('Content-Security-Policy', UNSUBSCRIBE_PAGE_POLICY)
  c.header('Cache-Control', 'no-store')
  c.header('Referrer-Policy', 'no-referrer')
  c.header('X-Content-Type-Options', 'nosniff')
  c.header('X-Robots-Tag', 'noindex, nofollow')
}
