import type { HttpBindings } from '@hono/node-server'
import type { Hono } from 'hono'
import { type SSEStreamingApi, streamSSE } from 'hono/streaming'
import { isDatabaseUnavailable } from '../../db/connection-error.ts'
import { sessionTokenOf } from './cookie.ts'
import type { DashboardEnv, PageContext } from './frame.ts'
import type { Frame, LiveFeed, Viewer } from './live-feed.ts'
import type { Sessions } from './session.ts'

/**
 * `GET /dashboard/live`: what changed on the overview, once a second, as server-sent events. A stream ends with its
 * session, with a sign-out in this process, and when the service stops. After FIVE_MINUTES the browser has to open it
 * anew, so that a sign-out in another process ends it too.
 */

export const LIVE_PATH = '/dashboard/live'
const FIVE_MINUTES_MS = 300_000
/** A reader that takes nothing for so long has gone away without a word. */
const SILENCE_MS = 30_000
/** What is written may still leave before the connection is cut. */
const LINGER_MS = 500
const RETRY_MS = 2_000
const RETRY_WHEN_FULL_MS = 30_000

type LiveDeps = {
  readonly feed: LiveFeed
  readonly sessions: Pick<Sessions, 'read'>
  readonly maxViewers: number
}

/** Before the routes that sign out: it listens to what they answer. */
export function addLive(routes: Hono<DashboardEnv>, deps: LiveDeps): void {
  routes.use('/logout', async (c, next) => {
    await next()
    if (c.req.method === 'POST' && c.res.status === 303) deps.feed.dismiss(sessionTokenOf(c))
  })
  routes.get(LIVE_PATH, (c) => {
    if (c.req.method === 'HEAD') return c.body(null)
    const token = sessionTokenOf(c)
    const viewer = deps.feed.join(token)
    const stay = (stream: SSEStreamingApi) =>
      viewer === undefined ? turnAway(deps, stream) : show(deps, { viewer, token, stream, c })
    const response = streamSSE(c, stay)
    response.headers.set('Cache-Control', 'no-store')
    // The socket closes with the stream, so that a stop need not wait for it to be idle.
    response.headers.set('Connection', 'close')
    // nginx would hold the events back.
    response.headers.set('X-Accel-Buffering', 'no')
    return response
  })
}

async function turnAway({ maxViewers }: LiveDeps, stream: SSEStreamingApi): Promise<void> {
  const data = `${maxViewers} others are watching this process already, as many as may. What you see is from the moment you loaded it.`
  await stream.writeSSE({ event: 'full', data, retry: RETRY_WHEN_FULL_MS })
}

type Show = {
  readonly viewer: Viewer
  readonly token: string
  readonly stream: SSEStreamingApi
  readonly c: PageContext
}

async function show(deps: LiveDeps, { viewer, token, stream, c }: Show): Promise<void> {
  const leave = () => viewer.leave()
  stream.onAbort(leave)
  const cut = () => cutOff(stream, c)
  viewer.ended.addEventListener('abort', cut)
  const limit = setTimeout(leave, FIVE_MINUTES_MS)
  try {
    let seen = 0
    for (;;) {
      const frame = await viewer.next(seen)
      if (frame === undefined) return
      const isSignedIn = await isStillSignedIn(deps, token, frame)
      const message = isSignedIn
        ? { event: 'frame', data: JSON.stringify(changesSince(frame, seen)), retry: RETRY_MS }
        : { event: 'ended', data: 'Your session has ended. Sign in again to go on watching.' }
      const silence = setTimeout(leave, SILENCE_MS)
      await stream.writeSSE(message)
      clearTimeout(silence)
      if (!isSignedIn) return
      seen = frame.number
    }
  } finally {
    clearTimeout(limit)
    viewer.ended.removeEventListener('abort', cut)
    viewer.leave()
  }
}

/** While the database is away nobody can say, and there is nothing new to be seen. */
async function isStillSignedIn({ sessions }: LiveDeps, token: string, frame: Frame): Promise<boolean> {
  try {
    return (await sessions.read(token)) !== undefined
  } catch (error) {
    if (isDatabaseUnavailable(error)) return frame.problem !== undefined
    throw error
  }
}

/** A reader that takes nothing would hold the connection, and a stop, with what it has not read. */
function cutOff(stream: SSEStreamingApi, c: PageContext): void {
  stream.abort()
  const { outgoing } = (c.env ?? {}) as Partial<HttpBindings>
  if (outgoing === undefined) return
  const timer = setTimeout(() => outgoing.destroy(), LINGER_MS)
  outgoing.once('close', () => clearTimeout(timer))
}

function changesSince({ number, at, problem, pieces }: Frame, seen: number) {
  const changed = [...pieces].filter(([, { changedIn }]) => changedIn > seen)
  return {
    number,
    at,
    ...(problem !== undefined && { problem }),
    pieces: Object.fromEntries(changed.map(([name, { text }]) => [name, text])),
  }
}
