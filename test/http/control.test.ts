import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { createKey, type KeyScope } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, untilStatus } from '../support/messages.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let service: TestService
let sink: SmtpSink

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url, OTHER_SMTP_URL: sink.url })
})

type Answer = Record<string, unknown> & { name?: string; message?: string }

async function put(path: string, body: unknown): Promise<{ status: number; body: Answer }> {
  const response = await service.request(path, { method: 'PUT', body })
  return { status: response.status, body: (await response.json()) as Answer }
}

async function postTo(path: string): Promise<{ status: number; body: Answer }> {
  const response = await service.request(path, { method: 'POST' })
  return { status: response.status, body: (await response.json()) as Answer }
}

async function rowOf(path: '/streams' | '/providers', name: string): Promise<Answer | undefined> {
  const response = await service.request(path)
  const { data } = (await response.json()) as { data: Answer[] }
  return data.find((row) => row.name === name)
}

describe('a stream', () => {
  test('is made with what was given and the defaults, changed in part, and used within a second', async () => {
    const made = await put('/streams/digests', { priority: 8, backoff_base_s: 7_200, backoff_cap_s: 14_400 })
    assert.equal(made.status, 200)
    assert.partialDeepStrictEqual(made.body, {
      name: 'digests',
      priority: 8,
      attempts: 3,
      route: ['default'],
    })
    // The cap is that of the row: by its default this base would be refused.
    const changed = await put('/streams/digests', { backoff_base_s: 10_800, attempts: 5 })
    assert.equal(changed.status, 200, changed.body.message)
    assert.partialDeepStrictEqual(await rowOf('/streams', 'digests'), {
      priority: 8,
      attempts: 5,
      backoff_base_s: 10_800,
      backoff_cap_s: 14_400,
    })
    const id = await eventually('the stream is taken', async () => {
      const response = await service.request('/emails', {
        body: { from: 'a@example.com', to: 'b@example.com', subject: 'Hi', text: 'Hi', stream: 'digests' },
      })
      return response.status === 200 && ((await response.json()) as { id: string }).id
    })
    await untilStatus(database, id, 'sent')
  })

  test('that makes no sense is refused with the field or the rule, and nothing is written', async () => {
    for (const [body, message] of [
      [{ priority: 10 }, /`priority`/],
      [{ attempts: 0 }, /`attempts`/],
      [{ attempts: -1 }, /`attempts`/],
      [{ attempts: 2.5 }, /`attempts`/],
      [{ backoff_factor: 0.5 }, /`backoff_factor`/],
      [{ backoff_base_s: 100, backoff_cap_s: 10 }, /backoff cap is at least base/],
      [{ on_unknown: 'ask' }, /`on_unknown`/],
      [{ route: [] }, /`route`/],
      [{ route: 'default' }, /`route`/],
      [{ colour: 'red' }, /Unknown field `colour`/],
      [[], /`body`/],
    ] as const) {
      const answer = await put('/streams/odd', body)
      assert.deepEqual([answer.status, answer.body.name], [422, 'validation_error'], JSON.stringify(body))
      assert.match(answer.body.message ?? '', message)
    }
    assert.equal(await rowOf('/streams', 'odd'), undefined)
  })

  test('with a route to a provider that does not exist is refused by name', async () => {
    const answer = await put('/streams/astray', { route: ['default', 'nowhere'] })
    assert.deepEqual([answer.status, answer.body.name], [422, 'validation_error'])
    assert.match(answer.body.message ?? '', /cannot route to nowhere.*The providers are .*default/)
    assert.equal(await rowOf('/streams', 'astray'), undefined)
    await assert.rejects(database.query("update mail.stream set route = '{nowhere}' where name = 'alerts'"), {
      code: '23503',
    })
  })

  test('has its send windows replaced as a whole, and shows when it opens', async () => {
    const window = { days: ['mon', 'fri'], opens: '20:00', closes: '08:00', time_zone: 'Europe/Berlin' }
    const made = await put('/streams/nightly', { windows: [window, { opens: '00:00', closes: '24:00' }] })
    assert.equal(made.status, 200, made.body.message)
    const always = { opens: '00:00', closes: '24:00', time_zone: 'UTC' }
    assert.partialDeepStrictEqual(made.body, { windows: [window, always], opens_at: null })
    // As somebody with psql does it: a window of one minute that was open two minutes ago.
    await database.query(
      `delete from mail.send_window where stream = 'nightly' and time_zone = 'UTC';
       update mail.send_window set days = '{mon,tue,wed,thu,fri,sat,sun}', time_zone = 'UTC',
         opens = date_trunc('minute', (now() - interval '2 minutes') at time zone 'UTC')::time,
         closes = date_trunc('minute', (now() - interval '1 minute') at time zone 'UTC')::time
       where stream = 'nightly'`,
    )
    const row = await rowOf('/streams', 'nightly')
    assert.equal((row?.windows as object[] | undefined)?.length, 1)
    const opensIn = Date.parse(String(row?.opens_at)) - Date.now()
    assert.ok(opensIn > 23 * 3_600_000 && opensIn < 24 * 3_600_000, `it opens in ${opensIn} ms`)
    const kept = await put('/streams/nightly', { slots: 3 })
    assert.equal((kept.body.windows as object[]).length, 1, 'windows stay')
    const none = await put('/streams/nightly', { windows: [] })
    assert.deepEqual([none.body.windows, none.body.opens_at], [[], null])
  })

  test('with a window that makes no sense is refused, and keeps those it has', async () => {
    const good = { opens: '20:00', closes: '08:00' }
    await put('/streams/strict', { windows: [good] })
    for (const [window, message] of [
      [{ ...good, opens: '24:00' }, /`windows\[0\]\.opens`.*must be a time of the day/],
      [{ ...good, closes: '8:00' }, /`windows\[0\]\.closes`.*must be a time of the day/],
      [{ ...good, opens: '08:00' }, /must open and close at different times/],
      [{ ...good, days: [] }, /`windows\[0\]\.days`/],
      [{ ...good, days: ['monday'] }, /`windows\[0\]\.days/],
      [{ ...good, time_zone: 'Berlin' }, /There is no time zone 'Berlin'\. Did you mean Europe\/Berlin\?/],
      [{ ...good, timezone: 'UTC' }, /`timezone`|windows\[0\]\.timezone/],
    ] as const) {
      const answer = await put('/streams/strict', { slots: 7, windows: [window] })
      assert.deepEqual([answer.status, answer.body.name], [422, 'validation_error'], JSON.stringify(answer))
      assert.match(answer.body.message ?? '', message)
    }
    assert.partialDeepStrictEqual(await rowOf('/streams', 'strict'), { slots: 20, windows: [good] })
  })

  test('has a name that queues can have', async () => {
    for (const name of ['A', 'a.b', 'a%20b', '%00', 'x'.repeat(65)]) {
      for (const path of [`/streams/${name}`, `/providers/${name}`]) {
        const answer = await put(path, {})
        assert.equal(answer.status, 422, path)
        assert.match(answer.body.message ?? '', /Invalid `name`/)
        assert.equal((await postTo(`${path}/pause`)).status, 422, path)
      }
    }
  })
})

describe('a provider', () => {
  test('is made, changed in part, and carries mail', async () => {
    const made = await put('/providers/second', {
      transport: 'smtp',
      credentials_env: 'OTHER_SMTP_URL',
      buckets: [{ name: 'burst', quota: 1_000 }],
    })
    assert.equal(made.status, 200, made.body.message)
    const changed = await put('/providers/second', { reserve: 50, breaker_cooldown_cap_s: 600 })
    assert.equal(changed.status, 200, changed.body.message)
    assert.partialDeepStrictEqual(await rowOf('/providers', 'second'), {
      transport: 'smtp',
      credentials_env: 'OTHER_SMTP_URL',
      reserve: 50,
      breaker_cooldown_cap_s: 600,
      status: 'sending',
      breaker: 'closed',
    })
    const buckets = await database.query("select from mail.bucket where provider = 'second'")
    assert.equal(buckets.length, 1, 'buckets stay')
    assert.equal((await put('/streams/other', { route: ['second'] })).status, 200)
    const id = await eventually('the stream is taken', async () => {
      const response = await service.request('/emails', {
        body: { from: 'a@example.com', to: 'b@example.com', subject: 'Hi', text: 'Hi', stream: 'other' },
      })
      return response.status === 200 && ((await response.json()) as { id: string }).id
    })
    assert.equal((await untilStatus(database, id, 'sent')).provider, 'second')
  })

  test('has its buckets replaced as a whole', async () => {
    await put('/providers/paced', {
      transport: 'smtp',
      credentials_env: 'OTHER_SMTP_URL',
      buckets: [
        { name: 'second', quota: 10 },
        { name: 'day', quota: 50_000, window_s: 86_400, utilization: 1 },
      ],
    })
    await put('/providers/paced', { buckets: [{ name: 'second', quota: 20, counts: 'requests' }] })
    const buckets = await database.query(
      "select name, quota, window_s, utilization, counts from mail.bucket where provider = 'paced'",
    )
    assert.deepEqual(buckets, [
      { name: 'second', quota: 20, window_s: 1, utilization: 0.85, counts: 'requests' },
    ])
    await put('/providers/paced', { buckets: [] })
    assert.deepEqual(await database.query("select from mail.bucket where provider = 'paced'"), [])
  })

  test('that makes no sense is refused, and nothing of it is written', async () => {
    const good = { transport: 'smtp', credentials_env: 'OTHER_SMTP_URL' }
    for (const [body, name, message] of [
      [{ transport: 'pigeon' }, 'validation_error', /`transport`/],
      [{ credentials_env: 'OTHER_SMTP_URL' }, 'missing_required_field', /Missing `transport`/],
      [{ transport: 'smtp' }, 'validation_error', /provider names its variable/],
      [
        { ...good, credentials_env: 'smtp://user:secret@host' },
        'validation_error',
        /name of an environment variable/,
      ],
      [{ ...good, base_url: 'ftp://example.com' }, 'validation_error', /`base_url`/],
      [{ ...good, options: { region: 1 } }, 'validation_error', /`options.region`/],
      [{ ...good, breaker_share: 2 }, 'validation_error', /`breaker_share`/],
      [{ ...good, breaker_cooldown_s: 500 }, 'validation_error', /breaker cooldown cap is at least cooldown/],
      [{ ...good, buckets: [{ name: 'a', quota: -1 }] }, 'validation_error', /`buckets\[0\]\.quota`/],
      [{ ...good, buckets: [{ name: 'a', quota: 0 }] }, 'validation_error', /`buckets\[0\]\.quota`/],
      [{ ...good, buckets: [{ name: 'a' }] }, 'missing_required_field', /`buckets\[0\]\.quota`/],
      [
        { ...good, buckets: [{ name: 'a', quota: 1, window_s: -5 }] },
        'validation_error',
        /`buckets\[0\]\.window_s`/,
      ],
      [{ ...good, buckets: [{ name: 'a', quota: 1, utilization: 1.5 }] }, 'validation_error', /utilization/],
      [
        {
          ...good,
          buckets: [
            { name: 'a', quota: 1 },
            { name: 'a', quota: 2 },
          ],
        },
        'validation_error',
        /different names/,
      ],
    ] as const) {
      const answer = await put('/providers/odd', body)
      assert.deepEqual([answer.status, answer.body.name], [422, name], JSON.stringify([body, answer.body]))
      assert.match(answer.body.message ?? '', message)
      assert.doesNotMatch(answer.body.message ?? '', /secret/)
    }
    assert.equal(await rowOf('/providers', 'odd'), undefined)
  })

  test('goes back to its own address when the base URL is taken away', async () => {
    await put('/providers/api', {
      transport: 'resend',
      credentials_env: 'NO_SUCH_KEY',
      base_url: 'http://127.0.0.1:9',
    })
    const answer = await put('/providers/api', { base_url: null })
    assert.deepEqual([answer.status, answer.body.base_url], [200, null])
  })

  test('without its variable is made, and its status names the variable until it has another', async () => {
    await put('/providers/unset', { transport: 'resend', credentials_env: 'SURELY_NOT_SET' })
    const status = async () => String((await rowOf('/providers', 'unset'))?.status)
    await eventually('its status says so', async () => /SURELY_NOT_SET is not set/.test(await status()))
    await put('/providers/unset', { transport: 'smtp', credentials_env: 'SMTP_URL' })
    await eventually('it is sending', async () => (await status()) === 'sending')
  })
})

describe('pausing', () => {
  test('a stream holds its mail until it is resumed, and may be said twice', async () => {
    await put('/streams/briefly', { priority: 6 })
    for (const _ of [1, 2]) {
      const { status, body } = await postTo('/streams/briefly/pause')
      assert.deepEqual([status, body.paused, body.object], [200, true, 'stream'])
    }
    const [first] = await database.query<{ at: Date }>(
      "select paused_at as at from mail.stream where name = 'briefly'",
    )
    await postTo('/streams/briefly/pause')
    const [again] = await database.query<{ at: Date }>(
      "select paused_at as at from mail.stream where name = 'briefly'",
    )
    assert.deepEqual(again, first, 'the first pause is the one that counts')
    for (const _ of [1, 2]) {
      const { status, body } = await postTo('/streams/briefly/resume')
      assert.deepEqual([status, body.paused], [200, false])
    }
  })

  test('a provider is told in its status and written down once', async () => {
    await put('/providers/halted', { transport: 'smtp', credentials_env: 'OTHER_SMTP_URL' })
    for (const _ of [1, 2]) assert.equal((await postTo('/providers/halted/pause')).status, 200)
    assert.match(String((await rowOf('/providers', 'halted'))?.status), /^paused by \w+$/)
    for (const _ of [1, 2]) assert.equal((await postTo('/providers/halted/resume')).status, 200)
    assert.equal((await rowOf('/providers', 'halted'))?.status, 'sending')
    const events = await database.query(
      "select type from mail.provider_event where provider = 'halted' order by id",
    )
    assert.deepEqual(events, [{ type: 'paused' }, { type: 'resumed' }])
  })

  test('what does not exist is not found', async () => {
    for (const path of ['/streams/nothing', '/providers/nothing']) {
      for (const verb of ['pause', 'resume']) {
        const { status, body } = await postTo(`${path}/${verb}`)
        assert.deepEqual([status, body.name], [404, 'not_found'])
        assert.match(body.message ?? '', /called nothing/)
      }
    }
  })

  test('a name that both a provider and a stream have needs its kind in SQL, not here', async () => {
    await put('/streams/twin', {})
    await put('/providers/twin', { transport: 'smtp', credentials_env: 'OTHER_SMTP_URL' })
    await assert.rejects(database.query("select mail.pause('twin')"), { code: '42P09' })
    await assert.rejects(database.query("select mail.pause('twin', 'colour')"), { code: '22023' })
    await assert.rejects(database.query('select mail.pause(null)'), { code: '42704' })
    assert.equal((await postTo('/providers/twin/pause')).status, 200)
    assert.equal((await rowOf('/streams', 'twin'))?.paused_at, null)
    await database.query("select mail.resume('twin', 'provider'), mail.pause('twin', 'stream')")
    assert.equal((await rowOf('/providers', 'twin'))?.paused_at, null)
    assert.notEqual((await rowOf('/streams', 'twin'))?.paused_at, null)
  })
})

test('who may look, pause and change is said by the scope of the key', async () => {
  const calls = [
    ['GET', '/streams'],
    ['GET', '/providers'],
    ['POST', '/streams/marketing/pause'],
    ['POST', '/streams/marketing/resume'],
    ['POST', '/providers/default/pause'],
    ['POST', '/providers/default/resume'],
    ['PUT', '/streams/marketing'],
    ['PUT', '/providers/default'],
  ] as const
  const allowed: Record<KeyScope, (method: string) => boolean> = {
    full: () => true,
    operate: (method) => method !== 'PUT',
    read: () => false,
    send: () => false,
  }
  for (const [scope, may] of Object.entries(allowed)) {
    const { key } = await createKey(service.db, { name: scope, scope: scope as KeyScope })
    for (const [method, path] of calls) {
      const response = await service.request(path, {
        method,
        headers: { Authorization: `Bearer ${key}` },
        ...(method === 'PUT' ? { body: {} } : {}),
      })
      assert.equal(response.status, may(method) ? 200 : 401, `${scope} ${method} ${path}`)
    }
  }
  await untilStatus(database, await post(service), 'sent')
})
