import type { Hono } from 'hono'
import { html } from 'hono/html'
import type { AppDeps } from '../deps.ts'
import { momentAndAge } from './amounts.ts'
import { facts, table } from './elements.ts'
import { type DashboardEnv, type Html, type Page, show } from './frame.ts'
import { type Processes, readProcesses, type WorkerRow } from './process-queries.ts'

/** `/dashboard/processes`: who works, and which process does what one should do. */
export function addProcesses(routes: Hono<DashboardEnv>, { db }: Pick<AppDeps, 'db'>): void {
  routes.get('/dashboard/processes', async (c) => show(c, processesPage(await readProcesses(db))))
}

function processesPage({ now, workers, leader }: Processes): Page {
  return {
    title: 'Processes',
    section: 'processes',
    body: html`
      ${table<WorkerRow>({
        caption: 'Workers',
        empty:
          'No worker is running: mail is accepted, and nothing is sent. Start one with SLUICE_ROLES=worker.',
        rows: workers,
        columns: [
          { name: 'Number', kind: 'exact', cell: ({ number }) => number },
          { name: 'Host and process', cell: ({ name }) => html`<bdi>${name}</bdi>` },
          { name: 'State', cell: stateOf },
          { name: 'Sends now', kind: 'number', cell: ({ sending }) => sending },
          { name: 'Started', kind: 'exact', cell: ({ started_at: at }) => momentAndAge(at, now) },
          { name: 'Last heard of', kind: 'exact', cell: ({ seen_at: at }) => momentAndAge(at, now) },
        ],
      })}
      <section class="card">
        <h2>Leader</h2>
        <p class="soft">Of all processes one measures, cleans up and raises alerts. When it has been silent for ten seconds, another does.</p>
        ${
          leader === null
            ? html`<p class="empty">No process leads.</p>`
            : facts([
                ['Host and process', html`<bdi>${leader.name}</bdi>`],
                ['Since', momentAndAge(leader.since, now)],
                ['Last heard of', momentAndAge(leader.renewed_at, now)],
              ])
        }
      </section>`,
  }
}

function stateOf({ is_alive: isAlive }: WorkerRow): Html {
  return isAlive
    ? html`<span class="state good">running</span>`
    : html`<span class="state bad">not heard of</span>`
}
