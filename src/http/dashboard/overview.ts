import type { Hono } from 'hono'
import { html } from 'hono/html'
import { ApiError } from '../../errors.ts'
import type { AppDeps } from '../deps.ts'
import { type DashboardEnv, type Html, type Page, show } from './frame.ts'
import { columnsOf, HISTORY_PATH, HOUR_POINTS, plots } from './history.ts'
import { type Point, readHistory } from './history-queries.ts'
import { addLive } from './live.ts'
import { LiveFeed, type Look } from './live-feed.ts'
import { readSnapshot, type Snapshot } from './live-queries.ts'
import { pipeline, streamTable } from './picture.ts'
import type { Sessions } from './session.ts'
import { shareReads } from './share-reads.ts'
import { openAlerts, summary } from './summary.ts'
import { type Refusals, troublesOf } from './trouble.ts'

/** Each looks at the session once a second, and is sent some kilobytes. */
const MAX_VIEWERS = 50
/** It is live once a second, for all who look. */
const SNAPSHOT_MS = 900
const HISTORY_MS = 5_000
/** Sent while they change: the latest is written a second or two after its end. */
const LATEST_POINTS = 6
const LATEST_MS = 2_500

type OverviewDeps = Pick<AppDeps, 'db' | 'log' | 'catalog' | 'admit' | 'stopping'> & {
  readonly sessions: Pick<Sessions, 'read'>
}

/**
 * `/`: how it is going, at a glance. The page and its live updates are the same pieces, rendered here: whoever has no
 * scripts sees all of it, as of the moment it was loaded.
 */
export function addOverview(routes: Hono<DashboardEnv>, deps: OverviewDeps): void {
  const { db, log, stopping } = deps
  const look = shareReads(SNAPSHOT_MS, () => readSnapshot(db))
  const hour = shareReads(HISTORY_MS, () => readHistory(db, HOUR_POINTS))
  const latest = shareReads(LATEST_MS, () => readHistory(db, LATEST_POINTS))
  const feed = new LiveFeed({
    log,
    stopping,
    maxViewers: MAX_VIEWERS,
    look: async () => lookOf(await look(), refusalsOf(deps), await latest()),
  })
  addLive(routes, { feed, sessions: deps.sessions, maxViewers: MAX_VIEWERS })
  routes.get('/', async (c) => show(c, page(await look(), refusalsOf(deps), await hour())))
  routes.get(HISTORY_PATH, async (c) => c.json(columnsOf(await hour())))
}

function page(snapshot: Snapshot, refusals: Refusals, points: readonly Point[]): Page {
  const pieces = piecesOf(snapshot, refusals)
  return {
    title: 'Overview',
    section: 'overview',
    styles: ['overview.css', 'uplot.css'],
    scripts: ['live.js', 'plots.js'],
    body: html`
      <p class="as-of soft"><span id="live-state">As of <time datetime="${snapshot.at}">${snapshot.at.slice(11, 19)}</time></span>
        · <a href="/">Load again</a></p>
      <div id="summary" role="status" aria-live="polite">${pieces.summary}</div>
      <div id="alerts">${pieces.alerts}</div>
      <section aria-labelledby="picture-title">
        <h2 id="picture-title">The way of the mail</h2>
        <div id="picture">${pieces.picture}</div>
      </section>
      ${plots(points)}
      <section id="streams" aria-label="Streams">${pieces.streams}</section>`,
  }
}

function piecesOf(
  snapshot: Snapshot,
  refusals: Refusals,
): Record<'alerts' | 'summary' | 'picture' | 'streams', Html> {
  return {
    alerts: openAlerts(snapshot),
    summary: summary(troublesOf(snapshot, refusals), snapshot.alerts),
    picture: pipeline(snapshot),
    streams: streamTable(snapshot),
  }
}

async function lookOf(snapshot: Snapshot, refusals: Refusals, latest: readonly Point[]): Promise<Look> {
  const rendered = Object.entries(piecesOf(snapshot, refusals)).map(
    async ([name, piece]) => [name, String(await piece)] as const,
  )
  return {
    at: snapshot.at,
    pieces: { ...Object.fromEntries(await Promise.all(rendered)), points: JSON.stringify(columnsOf(latest)) },
  }
}

/** What the door would say now, asked for each stream. */
function refusalsOf({ admit, catalog }: OverviewDeps): Refusals {
  if (isRefused(() => admit())) return { all: true, streams: [] }
  const streams = [...catalog.current.streams.values()].filter((stream) => isRefused(() => admit(stream)))
  return { all: false, streams: streams.map(({ name }) => name) }
}

function isRefused(admit: () => void): boolean {
  try {
    admit()
    return false
  } catch (error) {
    if (error instanceof ApiError) return true
    throw error
  }
}
