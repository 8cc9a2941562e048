import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, test } from 'node:test'
import type { StreamLine } from '../../../src/http/dashboard/live-queries.ts'
import { isLate } from '../../../src/http/dashboard/trouble.ts'
import { createKey } from '../../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { eventually } from '../../support/eventually.ts'
import { insertMany, post, untilStatus } from '../../support/messages.ts'
import { addProvider } from '../../support/pacing.ts'
import { startTestService, TEST_KEY, type TestService } from '../../support/service.ts'
import { startSmtpSink } from '../../support/smtp-sink.ts'
import { type Browser, formOf, openBrowser, plain } from './browser.ts'

const NAUGHTY = `</p><script>alert("1")</script><img src=x onerror=alert(1)> & 'it'`

const WAITING = { ready: 1, deferred: 0, in_flight: 0, in_per_s: 0, out_per_s: 0, growth_per_s: null }
const STREAM = { name: 'nightly', priority: 5, route: [], paused_at: null, paused_by: null, opens_at: null }

let database: TestDatabase
let service: TestService
let browser: Browser

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  const sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  await addProvider(database, 'held')
  await database.query("insert into mail.stream (name, route, priority) values ('letters', '{held}', 7)")
  // Before a worker runs: it would send some until it notices.
  await database.query("select mail.pause('held')")
  service = await startTestService(database, { SMTP_URL: sink.url, HELD_CREDENTIALS: sink.url })
  browser = openBrowser(service.url ?? '')
  await browser.signIn(TEST_KEY)
})

/** The text of the lane of a provider, without tags. */
function laneOf(page: string, provider: string): string {
  const [, ...lanes] = page.split('<li class="lane')
  const lane = lanes.find((part) => part.includes(`href="/dashboard/providers/${provider}"`))
  return textOf(lane?.slice(lane.indexOf('>') + 1) ?? '')
}

function textOf(html: string): string {
  return plain(html.replaceAll(/<[^>]*>/g, ' ')).replaceAll(/\s+/g, ' ')
}

describe('the overview', () => {
  test('shows how much waits for a paused provider, since when, and that it is paused', async () => {
    await insertMany(database, 37, { stream: 'letters' })
    const lane = await eventually('37 wait', async () => {
      const words = laneOf(await browser.page('/'), 'held')
      return words.includes('37 ready') && words
    })
    assert.match(lane, /held paused .*paused by .* 37 waiting 37 ready 0 deferred 0 in flight/)
    assert.match(lane, /letters 37/)
    const page = await browser.page('/')
    assert.match(textOf(page), /notice Provider held: paused by \w+/)
    assert.match(textOf(page), /letters running 7 0 37 0/, 'the line of its stream')
    await database.query("select mail.resume('held')")
    await eventually('none waits', async () => /0 waiting/.test(laneOf(await browser.page('/'), 'held')))
  })

  test('says what a provider said as text, whatever that is', async () => {
    await database.query("select mail.block_provider('default', 60000, $1)", [NAUGHTY])
    const pages = ['/', '/dashboard/providers', '/dashboard/providers/default', '/dashboard/streams']
    await eventually('it is shown', async () => (await browser.page('/')).includes('asked to wait'))
    for (const path of pages) {
      const page = await browser.page(path)
      assert.ok(!page.includes('<script>alert') && !page.includes('<img'), path)
      if (path !== '/dashboard/streams') assert.ok(plain(page).includes(NAUGHTY), path)
    }
    await database.query("select mail.resume('default')")
  })

  test('says when nobody works, and the page of processes who leads', async (t) => {
    const other = await createTestDatabase(t)
    const api = await startTestService(other, { SLUICE_ROLES: 'api' })
    const visitor = openBrowser(api.url ?? '')
    await visitor.signIn(TEST_KEY)
    assert.match(
      textOf(await visitor.page('/')),
      /No worker is running: mail is accepted, and nothing is sent/,
    )
    await other.query(
      "insert into mail.worker (number, name) overriding system value values (1, '<b>host</b>:1')",
    )
    const processes = await visitor.page('/dashboard/processes')
    assert.match(processes, /&lt;b&gt;host&lt;\/b&gt;:1/)
    assert.match(textOf(processes), /running 0 .*Leader .*Host and process/)
  })

  test('holds no script or style of its own, and loads what it needs from here', async () => {
    const page = await browser.page('/')
    // In tags alone: what a page shows as text may look like anything.
    assert.doesNotMatch(page, /<style|<script>|<[a-z][^>]*\s(?:style|on\w+)=|https?:/)
    const files = [...page.matchAll(/(?:src|href)="(\/dashboard\/assets\/[^"]+)"/g)].map(
      ([, file = '']) => file,
    )
    assert.deepEqual(files.toSorted(), [
      '/dashboard/assets/dashboard.css',
      '/dashboard/assets/icon.svg',
      '/dashboard/assets/live.js',
      '/dashboard/assets/overview.css',
      '/dashboard/assets/plots.js',
      '/dashboard/assets/uplot.css',
    ])
    for (const file of [...files, '/dashboard/assets/uplot.js']) {
      assert.equal((await browser.request(file)).status, 200, file)
    }
  })
})

describe('the last hour', () => {
  type History = { readonly step_s: number; readonly [measure: string]: unknown } & {
    readonly at: number[]
    readonly dispatch: number[]
  }

  test('is what was sampled and tallied, ten seconds a point', async () => {
    const id = await post(service)
    await untilStatus(database, id, 'sent')
    const process = randomUUID()
    // Long enough ago that nothing else was written there.
    const [moment] = await database.query<{ at: Date; s: number }>(
      `select date_bin('10 seconds', clock_timestamp() - interval '30 minutes', 'epoch') as at,
         extract(epoch from date_bin('10 seconds', clock_timestamp() - interval '30 minutes', 'epoch'))::integer as s`,
    )
    assert.ok(moment)
    await database.query(
      `insert into mail.sample (at, stage, stream, provider, ready, deferred, in_flight) values
         ($1, 'intake', '', '', 5, 0, 0), ($1, 'processing', 'letters', '', 40, 0, 2),
         ($1, 'dispatch', 'letters', 'held', 100, 7, 3), ($1, 'dispatch', 'alerts', 'default', 20, 1, 0)`,
      [moment.at],
    )
    await database.query(
      `insert into mail.tally (bucket_at, process, kind, stream, provider, count) values
         ($1, $2, 'accepted', 'letters', '', 50), ($1, $2, 'sent', 'letters', 'held', 30),
         ($1, $2, 'sent', 'alerts', 'default', 5), ($1, $2, 'dead', 'letters', '', 10), ($1, $2, 'request', 'letters', 'held', 99)`,
      [moment.at, process],
    )
    await database.query(
      `insert into mail.tally_time (bucket_at, process, kind, stream, provider, bucket, count, seconds) values
         ($1, $2, 'time_to_send', 'letters', 'held', 7, 10, 15), ($1, $2, 'provider_latency', 'letters', 'held', 12, 99, 5000)`,
      [moment.at, process],
    )
    const { history, index } = await eventually('the hour is read anew', async () => {
      const response = await browser.request('/dashboard/history.json')
      assert.equal(response.headers.get('Content-Type'), 'application/json')
      const read = (await response.json()) as History
      const place = read.at.indexOf(moment.s)
      return read.dispatch[place] === 120 && { history: read, index: place }
    })
    const at = (name: string) => (history[name] as (number | null)[])[index]
    assert.deepEqual(
      ['doors', 'processing', 'dispatch', 'deferred', 'accepted_per_s', 'sent_per_s', 'dead_per_s'].map(at),
      [5, 40, 120, 8, 5, 3.5, 1],
    )
    // Ten in the bucket from 1 to 2 s: half of them within its first half.
    assert.deepEqual([at('p50_s'), at('p95_s')], [1.5, 1.95])
    assert.deepEqual([history.at.length, history.step_s], [360, 10])
    assert.ok(history.at.every((second, place) => second === (history.at[0] ?? 0) + place * 10))
    const page = await browser.page('/')
    assert.match(
      textOf(page),
      /5 40 120 8 [\d.]+\/s [\d.]+\/s [\d.]+\/s 1.5 s (1.9|2) s/,
      'the same in the table',
    )
  })

  test('is for whoever is signed in', async () => {
    const response = await openBrowser(service.url ?? '').request('/dashboard/history.json')
    assert.equal(response.status, 303)
  })
})

describe('pause and resume', () => {
  for (const [kind, name, path] of [
    ['provider', 'held', '/dashboard/providers/held'],
    ['stream', 'letters', '/dashboard/streams/letters'],
  ] as const) {
    test(`of a ${kind} work from its page, and may be repeated from a page that is old`, async () => {
      const isPaused = async () => {
        const [row] = await database.query<{ is: boolean }>(
          `select paused_at is not null as is from mail.${kind} where name = $1`,
          [name],
        )
        return row?.is
      }
      const before = await browser.page(path)
      for (const _ of [1, 2]) {
        const after = await browser.submit(before, `${path}/pause`)
        assert.match(textOf(after), new RegExp(`Done: ${kind} ${name} is paused`, 'i'))
        assert.ok(formOf(after, `${path}/resume`))
        assert.equal(await isPaused(), true)
      }
      const paused = await browser.page(path)
      for (const _ of [1, 2]) {
        const after = await browser.submit(paused, `${path}/resume`)
        assert.match(textOf(after), new RegExp(`Done: ${kind} ${name} is sending again`, 'i'))
        assert.equal(await isPaused(), false)
      }
    })
  }

  test('holds mail back, and lets it go', async () => {
    const page = await browser.submit(
      await browser.page('/dashboard/streams/letters'),
      '/dashboard/streams/letters/pause',
    )
    const id = await eventually('the worker has seen it', async () => {
      const given = await post(service, { stream: 'letters' })
      await eventually('it is routed', async () => {
        const [row] = await database.query<{ status: string }>(
          'select status from mail.message where id = $1',
          [given],
        )
        return row?.status === 'queued' || row?.status === 'sent'
      })
      const [row] = await database.query<{ why: string }>('select mail.why($1) as why', [given])
      return /paused/.test(row?.why ?? '') && given
    })
    await browser.submit(page, '/dashboard/streams/letters/resume')
    await untilStatus(database, id, 'sent')
  })

  test('are done for nobody without the token of the session, and say what does not exist', async () => {
    const page = await browser.page('/dashboard/providers/held')
    const refused = await browser.submit(page, '/dashboard/providers/held/pause', { form_token: 'x' }, 403)
    assert.match(refused, /This page is old/)
    const [row] = await database.query("select paused_at from mail.provider where name = 'held'")
    assert.deepEqual(row, { paused_at: null })
    for (const name of ['nowhere', '%00', '..%2F', 'A', `${'x'.repeat(65)}`, '<script>']) {
      for (const kind of ['providers', 'streams']) {
        assert.match(
          await browser.page(`/dashboard/${kind}/${name}`, 404),
          /<h1[^>]*>(Not found|There is no such page)/,
        )
      }
    }
    const body = new URLSearchParams(formOf(page, '/logout').hidden).toString()
    const headers = { 'Content-Type': 'application/x-www-form-urlencoded' }
    const missing = await browser.request('/dashboard/providers/nowhere/pause', {
      method: 'POST',
      headers,
      body,
    })
    assert.equal(missing.status, 303)
    assert.match(await browser.page(missing.headers.get('Location') ?? '', 404), /no provider of this name/)
  })

  test('are for a key of scope operate as well', async () => {
    const visitor = openBrowser(service.url ?? '')
    await visitor.signIn((await createKey(service.db, { name: 'on call', scope: 'operate' })).key)
    const page = await visitor.submit(
      await visitor.page('/dashboard/providers/held'),
      '/dashboard/providers/held/pause',
    )
    await visitor.submit(page, '/dashboard/providers/held/resume')
  })
})

describe('the page of a provider', () => {
  test('says how much of each quota was used, what is left, and what became of its breaker', async () => {
    await database.query(
      `insert into mail.bucket (provider, name, quota, window_s, utilization, burst, reserve) values
         ('held', 'minute', 100, 60, 1, 50, 5), ('held', 'day', 1000, 86400, 1, 10, 0)`,
    )
    await database.query(
      `insert into mail.tally (bucket_at, process, kind, stream, provider, count)
       values (date_bin('10 seconds', clock_timestamp() - interval '30 seconds', 'epoch'), $1, 'deferred', 'other', 'held', 25)`,
      [randomUUID()],
    )
    await database.query(
      `insert into mail.stat (day, stream, provider, template, template_version, domain, tag, sent)
       values ((now() at time zone 'UTC')::date, 'other', 'held', '', 0, 'example.net', '', 250)`,
    )
    await database.query("insert into mail.provider_state (provider) values ('held') on conflict do nothing")
    await database.query("select mail.open_breaker('held', $1)", [NAUGHTY])
    const page = await browser.page('/dashboard/providers/held')
    const words = textOf(page)
    assert.match(words, /minute : 100 messages in 60 s/)
    const [, share, used] = /(\d+) % of it used in the last 60 s: (\d+) of 100/.exec(words) ?? []
    assert.ok(Number(used) >= 25 && share === used, words)
    const [, daily] = /(\d+) of 1 k/.exec(words.replaceAll('\u00a0', ' ')) ?? []
    assert.ok(Number(daily) >= 250, words)
    assert.match(words, /50 of 50 tokens are left now, 5 kept for urgent mail/)
    assert.match(words, /breaker open(ed)? .*alert\("1"\)/)
    assert.ok(!page.includes('<script>alert'))
    await database.query("select mail.close_breaker('held')")
    await database.query("delete from mail.bucket where provider = 'held'")
  })
})

test('a stream outside its send window waits, is not late, and says until when', async () => {
  await database.query("insert into mail.stream (name, route) values ('nightly', '{default}')")
  await database.query(
    `insert into mail.send_window (stream, days, opens, closes, time_zone)
     values ('nightly', array[to_char(now() at time zone 'UTC' + interval '3 days', 'dy')], '22:00', '23:30', 'UTC')`,
  )
  const day = new Date(Date.now() + 3 * 86_400_000).toISOString().slice(0, 10)
  const words = textOf(await browser.page('/dashboard/streams/nightly'))
  assert.match(words, new RegExp(`waits for its send window, ${day} 22:00`))
  assert.match(words, /Send windows \w{3} from 22:00 to 23:30, UTC/)
  const at = (state: Partial<StreamLine>) =>
    isLate(
      { ...WAITING, stage: 'dispatch', stream: 'nightly', provider: 'default', oldest_age_s: 600 },
      { streams: [{ ...STREAM, ...state }], providers: [] },
    )
  assert.deepEqual([at({}), at({ opens_at: day }), at({ paused_at: day })], [true, false, false])
})
