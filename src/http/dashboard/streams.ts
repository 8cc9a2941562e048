import type { Hono } from 'hono'
import { ApiError } from '../../errors.ts'
import type { AppDeps } from '../deps.ts'
import { type DashboardEnv, show } from './frame.ts'
import { addHoldActions } from './hold.ts'
import { readSnapshot } from './live-queries.ts'
import { streamPage, streamsPage } from './stream-pages.ts'
import { readSendWindows, readStream } from './stream-queries.ts'
import { addRouteAction } from './stream-route.ts'

type Deps = Pick<AppDeps, 'db' | 'log'>

/** `/dashboard/streams`: each kind of mail, where it waits, and its settings. Read anew: it follows a pause. */
export function addStreams(routes: Hono<DashboardEnv>, deps: Deps): void {
  routes.get('/dashboard/streams', async (c) => show(c, streamsPage(await readSnapshot(deps.db))))
  routes.get('/dashboard/streams/:name{[a-z0-9_-]{1,64}}', async (c) => {
    const stream = await readStream(deps.db, c.req.param('name'))
    if (stream === undefined) throw new ApiError('not_found', 'There is no stream of this name.')
    const windows = await readSendWindows(deps.db, stream.name)
    return show(
      c,
      streamPage({ stream, windows, snapshot: await readSnapshot(deps.db), session: c.get('session') }),
    )
  })
  addHoldActions(routes, deps, 'stream')
  addRouteAction(routes, deps)
}
