import { html } from 'hono/html'
import { amount, perSecond, span } from './amounts.ts'
import { table } from './elements.ts'
import type { Html } from './frame.ts'
import { type Point, STEP_S } from './history-queries.ts'

/** The last hour: as columns for the plots, and as a table for whoever sees none. */

export const HISTORY_PATH = '/dashboard/history.json'
export const HOUR_POINTS = 3_600 / STEP_S
const MINUTE_S = 60

/** A list for each measure, all in the order of `at`. */
export function columnsOf(
  points: readonly Point[],
): Record<keyof Point, (number | null)[]> & { step_s: number } {
  const column = (name: keyof Point) => points.map((point) => point[name])
  return {
    step_s: STEP_S,
    at: column('at'),
    doors: column('doors'),
    processing: column('processing'),
    dispatch: column('dispatch'),
    deferred: column('deferred'),
    accepted_per_s: column('accepted_per_s'),
    sent_per_s: column('sent_per_s'),
    dead_per_s: column('dead_per_s'),
    p50_s: column('p50_s'),
    p95_s: column('p95_s'),
  }
}

/** Scripts fill the figures; the table below them has the same numbers. */
export function plots(points: readonly Point[]): Html {
  return html`<section aria-labelledby="history-title">
    <h2 id="history-title">The last hour</h2>
    <div class="plots">
      ${figure('waiting', 'Waiting', 'messages')}
      ${figure('rates', 'Flow', 'messages a second')}
      ${figure('times', 'Time to send', 'of half and of 95 % of the messages')}
    </div>
    <details><summary>The last hour as a table</summary>${minuteTable(points)}</details>
  </section>`
}

function figure(name: string, title: string, unit: string): Html {
  return html`<figure class="card plot" data-plot="${name}" hidden>
    <figcaption><h3>${title}</h3> <span class="soft">${unit}</span></figcaption>
    <div class="canvas"></div>
  </figure>`
}

function minuteTable(points: readonly Point[]): Html {
  return table<Minute>({
    caption:
      'One line a minute, the latest first: the most that waited, the mean of its flow, and its slowest ten seconds',
    empty: 'There is nothing to show yet.',
    rows: minutesOf(points).toReversed(),
    columns: [
      {
        name: 'Minute',
        kind: 'exact',
        cell: ({ at }) => {
          const iso = new Date(at * 1_000).toISOString()
          return html`<time datetime="${iso}">${iso.slice(11, 16)}</time>`
        },
      },
      { name: 'At the doors', kind: 'number', cell: ({ most }) => amount(most('doors') ?? 0) },
      { name: 'For processing', kind: 'number', cell: ({ most }) => amount(most('processing') ?? 0) },
      { name: 'For dispatch', kind: 'number', cell: ({ most }) => amount(most('dispatch') ?? 0) },
      { name: 'Deferred', kind: 'number', cell: ({ most }) => amount(most('deferred') ?? 0) },
      { name: 'Accepted', kind: 'number', cell: ({ mean }) => `${perSecond(mean('accepted_per_s'))}/s` },
      { name: 'Sent', kind: 'number', cell: ({ mean }) => `${perSecond(mean('sent_per_s'))}/s` },
      { name: 'Dead', kind: 'number', cell: ({ mean }) => `${perSecond(mean('dead_per_s'))}/s` },
      { name: 'p50', kind: 'number', cell: ({ most }) => orNone(most('p50_s')) },
      { name: 'p95', kind: 'number', cell: ({ most }) => orNone(most('p95_s')) },
    ],
  })
}

function orNone(seconds: number | null): string | null {
  return seconds === null ? null : span(seconds)
}

type Measure = Exclude<keyof Point, 'at'>
type Minute = {
  readonly at: number
  readonly mean: (measure: Measure) => number
  /** Null where nothing was measured. */
  readonly most: (measure: Measure) => number | null
}

function minutesOf(points: readonly Point[]): Minute[] {
  const minutes = Map.groupBy(points, ({ at }) => at - (at % MINUTE_S))
  return [...minutes].map(([at, inMinute]) => {
    const known = (measure: Measure) => inMinute.flatMap((point) => point[measure] ?? [])
    return {
      at,
      mean: (measure) => known(measure).reduce((sum, value) => sum + value, 0) / inMinute.length,
      most: (measure) => (known(measure).length === 0 ? null : Math.max(...known(measure))),
    }
  })
}
