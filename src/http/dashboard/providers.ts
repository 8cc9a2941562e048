import type { Hono } from 'hono'
import { ApiError } from '../../errors.ts'
import type { AppDeps } from '../deps.ts'
import { type DashboardEnv, show } from './frame.ts'
import { addHoldActions } from './hold.ts'
import { readSnapshot } from './live-queries.ts'
import { providerPage, providersPage } from './provider-pages.ts'
import { readProviderEvents, readProviderSettings, readQuotas } from './provider-queries.ts'

const MAX_EVENTS = 50

type Deps = Pick<AppDeps, 'db' | 'log'>

/** `/dashboard/providers`: how each is doing, what is left of its quota, and what became of its breaker. Read anew: it follows a pause. */
export function addProviders(routes: Hono<DashboardEnv>, deps: Deps): void {
  const { db } = deps
  routes.get('/dashboard/providers', async (c) => {
    const snapshot = await readSnapshot(db)
    const quotas = await readQuotas(db)
    return show(c, providersPage(snapshot, quotas))
  })
  routes.get('/dashboard/providers/:name{[a-z0-9_-]{1,64}}', async (c) => {
    const name = c.req.param('name')
    const settings = (await readProviderSettings(db)).find((each) => each.name === name)
    if (settings === undefined) throw new ApiError('not_found', 'There is no provider of this name.')
    return show(
      c,
      providerPage({
        settings,
        snapshot: await readSnapshot(db),
        quotas: await readQuotas(db, name),
        events: await readProviderEvents(db, name, MAX_EVENTS),
        session: c.get('session'),
      }),
    )
  })
  addHoldActions(routes, deps, 'provider')
}
