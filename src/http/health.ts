import { Hono } from 'hono'
import { sql } from 'kysely'
import type { AppDeps } from './deps.ts'

/**
 * `/healthz`: this process runs. `/readyz`: it can do its work, which takes the database; mail is accepted while none is
 * sent, so a hold is told and is no reason to take the process out.
 */
export function healthRoutes(deps: Pick<AppDeps, 'db' | 'log'>): Hono {
  const routes = new Hono()
  routes.get('/healthz', (c) => c.json({ status: 'ok' }))
  routes.get('/readyz', async (c) => {
    try {
      const { rows } = await sql<{
        held: string | null
      }>`/* http.ready */ select mail.why_held() as held`.execute(deps.db)
      const held = rows[0]?.held ?? null
      return c.json({ status: 'ready', ...(held === null ? {} : { held }) })
    } catch (error) {
      deps.log.debug({ error }, 'not ready')
      c.header('Retry-After', '2')
      return c.json({ status: 'the database cannot be reached' }, 503)
    }
  })
  return routes
}
