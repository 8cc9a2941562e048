import { Hono } from 'hono'
import type { AppDeps } from './deps.ts'

/** `/metrics` in Prometheus' text format. Without a key, like `/healthz`: it holds numbers and the names of streams. */
export function metricsRoutes(scrape: Exclude<AppDeps['metrics'], 'elsewhere'>): Hono {
  const routes = new Hono()
  routes.get('/', async (c) => {
    const { contentType, text } = await scrape()
    c.header('Content-Type', contentType)
    c.header('Cache-Control', 'no-store')
    return c.body(text)
  })
  return routes
}
