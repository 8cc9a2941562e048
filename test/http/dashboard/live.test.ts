import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { before, describe, type TestContext, test } from 'node:test'
import { Hono } from 'hono'
import type { DashboardEnv } from '../../../src/http/dashboard/frame.ts'
import { addLive } from '../../../src/http/dashboard/live.ts'
import { LiveFeed, type Look } from '../../../src/http/dashboard/live-feed.ts'
import type { Session } from '../../../src/http/dashboard/session.ts'
import { listen as listenAt } from '../../../src/http/server.ts'
import { createKey, revokeKey } from '../../../src/keys/keys.ts'
import { createLog } from '../../../src/log.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { eventually } from '../../support/eventually.ts'
import { startTestService, TEST_KEY, type TestService } from '../../support/service.ts'
import { type Browser, openBrowser } from './browser.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database)
})

type Frame = { readonly number: number; readonly at: string; readonly pieces: Record<string, string> }
type Watch = {
  readonly frames: Frame[]
  readonly events: { readonly event: string; readonly data: string }[]
  readonly ended: Promise<void>
}

async function signIn(key = TEST_KEY, url = service.url): Promise<Browser> {
  const browser = openBrowser(url ?? '')
  await browser.signIn(key)
  return browser
}

/** What a page with an EventSource would hear. */
async function watch(browser: Browser): Promise<Watch> {
  const response = await browser.request('/dashboard/live')
  assert.equal(response.status, 200)
  assert.equal(response.headers.get('Content-Type'), 'text/event-stream')
  assert.equal(response.headers.get('Cache-Control'), 'no-store')
  const heard: Omit<Watch, 'ended'> = { frames: [], events: [] }
  return { ...heard, ended: listen(response, heard) }
}

async function listen(response: Response, { frames, events }: Omit<Watch, 'ended'>): Promise<void> {
  let text = ''
  for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += chunk
    const messages = text.split('\n\n')
    text = messages.pop() ?? ''
    for (const message of messages) {
      const [, event = ''] = /^event: (.*)$/m.exec(message) ?? []
      const [, data = ''] = /^data: (.*)$/m.exec(message) ?? []
      if (event === 'frame') frames.push(JSON.parse(data) as Frame)
      else events.push({ event, data })
    }
  }
}

describe('the live overview', () => {
  test('begins with everything, and goes on with what changed', async () => {
    const watched = await watch(await signIn())
    const first = await eventually('a frame', async () => watched.frames[0])
    assert.deepEqual(Object.keys(first.pieces).sort(), ['alerts', 'picture', 'points', 'streams', 'summary'])
    await database.query("select mail.pause('marketing')")
    const changed = await eventually('the pause is told', async () =>
      watched.frames.slice(1).find(({ pieces }) => pieces.summary?.includes('Stream marketing is paused')),
    )
    assert.match(changed.pieces.streams ?? '', /paused/)
    const quiet = await eventually('a frame in which nothing of that changed', async () =>
      watched.frames.find(({ number, pieces }) => number > changed.number && pieces.summary === undefined),
    )
    assert.equal(quiet.pieces.streams, undefined)
    await database.query("select mail.resume('marketing')")
    await eventually('the end of it is told', async () =>
      watched.frames.find(({ number, pieces }) => number > changed.number && pieces.summary !== undefined),
    )
    assert.deepEqual(
      watched.frames.map(({ number }) => number),
      watched.frames.map((_, index) => first.number + index),
      'each frame once, in order',
    )
  })

  test('is what the page shows', async () => {
    const browser = await signIn()
    const watched = await watch(browser)
    const [frame] = await eventually('a frame', async () => watched.frames.length > 0 && watched.frames)
    const page = await browser.page('/')
    assert.ok(page.includes(frame?.pieces.summary ?? 'none'))
  })

  test('ends when its key is revoked', async () => {
    const { id, key } = await createKey(service.db, { name: 'on call', scope: 'operate' })
    const watched = await watch(await signIn(key))
    await eventually('a frame', async () => watched.frames[0])
    await revokeKey(service.db, id)
    await watched.ended
    assert.deepEqual(
      watched.events.map(({ event }) => event),
      ['ended'],
    )
    assert.match(watched.events[0]?.data ?? '', /session has ended/)
  })

  test('ends with a sign-out, in all tabs of that session and in no other', async () => {
    const [browser, other] = [await signIn(), await signIn()]
    const tabs = await Promise.all([watch(browser), watch(browser), watch(other)])
    await eventually('all hear', async () => tabs.every(({ frames }) => frames.length > 0))
    await browser.submit(await browser.page('/'), '/logout')
    await Promise.all([tabs[0]?.ended, tabs[1]?.ended])
    const heard = tabs[2]?.frames.length ?? 0
    await eventually('the other goes on', async () => (tabs[2]?.frames.length ?? 0) > heard)
  })

  test('is for nobody without a session', async () => {
    const response = await openBrowser(service.url ?? '').request('/dashboard/live')
    assert.equal(response.status, 303)
    const { cookie } = await signIn()
    const head = await fetch(new URL('/dashboard/live', service.url), {
      method: 'HEAD',
      headers: { Cookie: cookie },
    })
    assert.equal(head.status, 200)
  })

  test('tells the one too many so, and takes the next when somebody leaves', async (t) => {
    const other = await createTestDatabase(t)
    const api = await startTestService(other, { SLUICE_ROLES: 'api' })
    const browser = await signIn(TEST_KEY, api.url)
    const aborts = Array.from({ length: 50 }, () => new AbortController())
    const seats = await Promise.all(
      aborts.map(({ signal }) => browser.request('/dashboard/live', { signal })),
    )
    assert.ok(seats.every(({ status }) => status === 200))
    const late = await watch(browser)
    await late.ended
    assert.deepEqual(
      late.events.map(({ event }) => event),
      ['full'],
    )
    assert.match(late.events[0]?.data ?? '', /^50 others are watching/)
    aborts[0]?.abort()
    await eventually('there is room', async () => {
      const next = await watch(browser)
      return Promise.race([next.ended.then(() => false), eventually('a frame', async () => next.frames[0])])
    })
    for (const abort of aborts) abort.abort()
  })

  test('ends at once when the service stops, also for a reader that takes nothing', async (t) => {
    const other = await createTestDatabase(t)
    const stopping = await startTestService(other, { SLUICE_ROLES: 'api' })
    const browser = await signIn(TEST_KEY, stopping.url)
    const watched = await watch(browser)
    const mute = request(new URL('/dashboard/live', stopping.url), { headers: { Cookie: browser.cookie } })
    mute.on('error', () => undefined)
    mute.end()
    const [answer] = (await once(mute, 'response')) as [NodeJS.ReadableStream & { on: typeof mute.on }]
    answer.on('error', () => undefined)
    answer.pause()
    await eventually('a frame', async () => watched.frames[0])
    assert.equal(await stopping.stop(), true)
    await watched.ended
  })
})

describe('a reader that takes nothing', () => {
  /** A server with nothing but the stream, whose frames are too large for what lies between it and a reader. */
  async function serveLargeFrames(t: TestContext) {
    const stopping = new AbortController()
    let looks = 0
    const large = 'x'.repeat(12_000_000)
    const look = async () => {
      looks += 1
      return { at: '', pieces: { large: `${looks}${large}` } }
    }
    const feed = new LiveFeed({ log: createLog('silent'), look, maxViewers: 1, stopping: stopping.signal })
    const routes = new Hono<DashboardEnv>()
    addLive(routes, { feed, maxViewers: 1, sessions: { read: async () => ({}) as Session } })
    const app = new Hono()
    app.route('/', routes)
    const server = await listenAt(app, { host: '127.0.0.1', port: 0 })
    t.after(() => server.close(AbortSignal.abort()))
    const reader = request(new URL('/dashboard/live', server.url))
    reader.on('error', () => undefined)
    reader.end()
    const [answer] = (await once(reader, 'response')) as [IncomingMessage]
    answer.on('error', () => undefined)
    const untilLooks = (count: number) => eventually(`${count} looks`, async () => looks >= count)
    return { server, stopping, answer, untilLooks }
  }

  test('is not written to: the frames meanwhile are passed over', async (t) => {
    const { answer, untilLooks, stopping } = await serveLargeFrames(t)
    await untilLooks(5)
    const numbers: number[] = []
    answer.setEncoding('utf8')
    answer.on('data', (chunk: string) => {
      for (const [, number] of chunk.matchAll(/data: \{"number":(\d+)/g)) numbers.push(Number(number))
    })
    await eventually('it reads again', async () => (numbers.at(-1) ?? 0) >= 5)
    assert.ok(numbers.length < (numbers.at(-1) ?? 0), `${numbers} leaves some out`)
    stopping.abort()
  })

  test('is cut off when the service stops', async (t) => {
    const { server, stopping, answer, untilLooks } = await serveLargeFrames(t)
    await untilLooks(3)
    answer.pause()
    stopping.abort()
    // The limit is not needed: a stream that went on would hold the server for ever.
    await server.close(new AbortController().signal)
  })
})

describe('the feed', () => {
  function feedOf(look: () => Promise<Look>, maxViewers = 3) {
    const stopping = new AbortController()
    return {
      feed: new LiveFeed({ log: createLog('silent'), look, maxViewers, stopping: stopping.signal }),
      stopping,
    }
  }

  test('looks once for all viewers, and not at all without any', async () => {
    let looks = 0
    const { feed } = feedOf(async () => {
      looks += 1
      return { at: String(looks), pieces: { count: String(looks) } }
    })
    const viewers = [feed.join('a'), feed.join('a'), feed.join('b')]
    const frames = await Promise.all(viewers.map((viewer) => viewer?.next(0)))
    assert.deepEqual(
      frames.map((frame) => frame?.number),
      [1, 1, 1],
    )
    assert.equal(looks, 1)
    assert.equal(feed.join('c'), undefined, 'there is no more room')
    for (const viewer of viewers) viewer?.leave()
    assert.equal(await viewers[0]?.next(1), undefined)
  })

  test('a viewer that comes late to a frame gets the latest, with all that changed since its own', async () => {
    let looks = 0
    const { feed } = feedOf(async () => {
      looks += 1
      return { at: '', pieces: { each: String(looks), once: looks === 1 ? 'a' : 'b', never: 'c' } }
    })
    const [quick, slow] = [feed.join('quick'), feed.join('slow')]
    const first = await slow?.next(0)
    let seen = 0
    for (let frames = 0; frames < 3; frames += 1) seen = (await quick?.next(seen))?.number ?? 0
    const latest = await slow?.next(first?.number ?? 0)
    assert.equal(latest?.number, 3)
    const changed = [...(latest?.pieces ?? [])].filter(
      ([, { changedIn }]) => changedIn > (first?.number ?? 0),
    )
    assert.deepEqual(
      changed.map(([name, { text }]) => [name, text]),
      [
        ['each', '3'],
        ['once', 'b'],
      ],
    )
    quick?.leave()
    slow?.leave()
  })

  test('keeps the latest there was while looking fails, and says so', async () => {
    let isBroken = false
    const { feed } = feedOf(async () => {
      if (isBroken) throw new Error('away')
      return { at: 'then', pieces: { a: '1' } }
    })
    const viewer = feed.join('a')
    const good = await viewer?.next(0)
    assert.equal(good?.problem, undefined)
    isBroken = true
    const bad = await viewer?.next(1)
    assert.match(bad?.problem ?? '', /database cannot be reached/)
    assert.deepEqual([bad?.at, bad?.pieces.get('a')?.text], ['then', '1'])
    isBroken = false
    assert.equal((await viewer?.next(2))?.problem, undefined)
    viewer?.leave()
  })

  test('ends everybody when the service stops, and whoever comes after', async () => {
    const { feed, stopping } = feedOf(async () => ({ at: '', pieces: {} }))
    const viewer = feed.join('a')
    await viewer?.next(0)
    const next = viewer?.next(1)
    stopping.abort()
    assert.equal(await next, undefined)
    assert.equal(viewer?.ended.aborted, true)
    assert.equal(await feed.join('b')?.next(0), undefined)
  })
})
