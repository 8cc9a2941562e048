import type { Hono } from 'hono'
import { html } from 'hono/html'
import { setPaused } from '../control-queries.ts'
import type { AppDeps } from '../deps.ts'
import { act } from './action.ts'
import { type DashboardEnv, formToken, type Html } from './frame.ts'
import type { Session } from './session.ts'

/** Pause and resume of a provider or a stream: safe to repeat, and in force in every worker within a second. */

type Held = 'provider' | 'stream'

export function addHoldActions(
  routes: Hono<DashboardEnv>,
  { db, log }: Pick<AppDeps, 'db' | 'log'>,
  kind: Held,
): void {
  for (const [verb, isPause] of [
    ['pause', true],
    ['resume', false],
  ] as const) {
    routes.post(`${pathOf(kind)}/:name{[a-z0-9_-]{1,64}}/${verb}`, (c) => {
      const name = c.req.param('name')
      const back = `${pathOf(kind)}/${encodeURIComponent(name)}`
      return act(c, back, async () => {
        const said = await setPaused(db, kind, name, isPause)
        log.info({ keyId: c.get('caller').keyId, kind, name }, `${verb}d from the dashboard`)
        return { tone: 'done', text: `${said.charAt(0).toUpperCase()}${said.slice(1)}.` }
      })
    })
  }
}

export function pathOf(kind: Held): string {
  return `/dashboard/${kind}s`
}

/** The one of the two that makes a difference now. */
export function holdForm(kind: Held, each: { name: string; paused_at: unknown }, session: Session): Html {
  const isPaused = each.paused_at !== null
  const action = `${pathOf(kind)}/${each.name}/${isPaused ? 'resume' : 'pause'}`
  return isPaused
    ? html`<form method="post" action="${action}">${formToken(session)}<button class="primary">Resume ${each.name}</button></form>`
    : html`<details class="sure"><summary>Pause ${each.name}</summary>
        <form method="post" action="${action}">${formToken(session)}
          <p>${kind === 'provider' ? 'Its mail waits, or goes to the next provider of its stream’s route.' : 'Its mail is accepted and processed, and waits.'}</p>
          <button class="danger">Pause it</button>
        </form>
      </details>`
}
