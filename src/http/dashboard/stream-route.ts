import type { Hono } from 'hono'
import { html } from 'hono/html'
import { ApiError } from '../../errors.ts'
import { parseBody } from '../body.ts'
import { streamSchema } from '../control.ts'
import { saveStream } from '../control-queries.ts'
import type { AppDeps } from '../deps.ts'
import { act } from './action.ts'
import { field } from './elements.ts'
import { type DashboardEnv, formToken, type Html, mayRead } from './frame.ts'
import { wordsIn } from './input.ts'
import type { Session } from './session.ts'
import { readStream, type StreamRow } from './stream-queries.ts'

/** The route of a stream: where mail goes is changed by keys that may do everything, as with `PUT /streams/:name`. */

const routeSchema = streamSchema.pick({ route: true })

export function addRouteAction(routes: Hono<DashboardEnv>, { db, log }: Pick<AppDeps, 'db' | 'log'>): void {
  routes.post('/dashboard/streams/:name{[a-z0-9_-]{1,64}}/route', async (c) => {
    if (!mayRead(c.get('session'))) {
      const words = 'Routes are changed by keys of scope full; this one has operate.'
      throw new ApiError('restricted_api_key', words, { status: 403 })
    }
    const name = c.req.param('name')
    // Saving would make it.
    if ((await readStream(db, name)) === undefined) {
      throw new ApiError('not_found', 'There is no stream of this name.')
    }
    return act(c, `/dashboard/streams/${name}`, async () => {
      const given = (wordsIn(c.get('form'), 'route') ?? '').split(/[\s,]+/).filter((word) => word !== '')
      const { route } = parseBody(routeSchema, { route: given })
      await saveStream(db, name, { route }, undefined)
      log.info({ keyId: c.get('caller').keyId, name, route }, 'route changed from the dashboard')
      return { tone: 'done', text: `Mail of stream ${name} goes to ${given.join(', then ')}.` }
    })
  })
}

export function routeForm({ name, route }: StreamRow, session: Session): Html {
  if (!mayRead(session)) return html``
  return html`<details class="sure"><summary>Change the route</summary>
    <form method="post" action="/dashboard/streams/${name}/route">${formToken(session)}
      <p>The first of them that may send takes the mail, also what waits already.</p>
      <div class="fields">
        ${field('route', {
          name: 'route',
          label: 'Providers in order',
          value: route.join(', '),
          isRequired: true,
          hint: 'names, with commas between them',
        })}
        <button class="primary">Change it</button>
      </div>
    </form>
  </details>`
}
