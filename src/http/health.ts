import { Hono } from 'hono'
import { sql } from 'kysely'
import type { AppDeps } from './deps.ts'

/** `/healthz`: this process runs. `/readyz`: it can do its work, which takes the database. */
export function healthRoutes(deps: Pick<AppDeps, 'db' | 'log'>): Hono {
  const routes = new Hono()
  routes.get('/healthz', (c) => c.json({ status: 'ok' }))
  routes.get('/readyz', async (c) => {
    try {
      await sql`/* http.ready */ select 1`.execute(deps.db)
      return c.json({ status: 'ready' })
    } catch (error) {
      deps.log.debug({ error }, 'not ready')
      c.header('Retry-After', '2')
      return c.json({ status: 'the database cannot be reached' }, 503)
    }
  })
  return routes
}
