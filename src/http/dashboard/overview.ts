import type { Hono } from 'hono'
import { html } from 'hono/html'
import { type DashboardEnv, show } from './frame.ts'

/** `/`: how it is going, at a glance. */
export function addOverview(routes: Hono<DashboardEnv>): void {
  routes.get('/', (c) => show(c, { title: 'Overview', section: 'overview', body: html`` }))
}
