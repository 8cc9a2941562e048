import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Resend } from 'resend'
import { Webhook } from 'standardwebhooks'
import { MACHINE_CLOCK } from '../../src/database-clock.ts'
import { type ListedHost, parseListedHost } from '../../src/network/listed-hosts.ts'
import { webhookTarget } from '../../src/webhook-target.ts'
import { postWebhook } from '../../src/webhooks/request.ts'
import { signatureHeaders } from '../../src/webhooks/signature.ts'
import { startWebhookReceiver } from '../support/webhook-receiver.ts'

const OLD = `whsec_${Buffer.alloc(24, 1).toString('base64')}`
const NEW = `whsec_${Buffer.alloc(64, 2).toString('base64')}`
const BODY = '{"type":"email.sent","data":{"subject":"Grüße 🎉"}}'
const NEVER = new AbortController().signal

function listed(...entries: readonly string[]): ListedHost[] {
  return entries.map((entry) => {
    const host = parseListedHost(entry)
    assert.ok(host)
    return host
  })
}

function post(
  url: string,
  deps: Partial<Parameters<typeof postWebhook>[0]> = {},
  signal: AbortSignal = NEVER,
) {
  return postWebhook(
    { hosts: [], clock: MACHINE_CLOCK, ...deps },
    { id: 'msg_1', url, body: BODY, secrets: [NEW] },
    signal,
  )
}

test('the example of Svix is signed as Svix signs it', () => {
  const headers = signatureHeaders({
    id: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    body: '{"test": 2432232314}',
    secrets: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
    at: new Date(1_614_265_330_000),
  })
  assert.equal(headers['webhook-signature'], 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
})

test('standardwebhooks and the SDK verify each of two secrets, and neither a third one nor another body', () => {
  const headers = signatureHeaders({ id: 'msg_1', body: BODY, secrets: [NEW, OLD], at: new Date() })
  const { verify } = new Resend('re_unused').webhooks
  const asSdk = {
    id: headers['svix-id'] ?? '',
    timestamp: headers['svix-timestamp'] ?? '',
    signature: headers['svix-signature'] ?? '',
  }
  for (const secret of [NEW, OLD]) {
    assert.deepEqual(new Webhook(secret).verify(BODY, headers), JSON.parse(BODY))
    assert.deepEqual(verify({ payload: BODY, headers: asSdk, webhookSecret: secret }), JSON.parse(BODY))
  }
  const other = `whsec_${Buffer.alloc(24, 3).toString('base64')}`
  assert.throws(() => new Webhook(other).verify(BODY, headers))
  assert.throws(() => new Webhook(NEW).verify(BODY.replace('sent', 'lost'), headers))
})

test('an answer is kept to its first kilobyte, without what Postgres cannot store', async (t) => {
  const receiver = await startWebhookReceiver(
    t,
    () => (response) => response.writeHead(503).end(`\0${'x'.repeat(5_000)}`),
  )
  const answer = await post(receiver.url, { hosts: listed(receiver.host) })
  assert.equal(answer.status, 503)
  assert.equal(answer.response, 'x'.repeat(1_023))
})

test('no answer, a redirect, a cut connection: each is a failure with its reason, and nothing is followed', async (t) => {
  const receiver = await startWebhookReceiver(t, ({ path }) => {
    if (path === '/hang') return 'hang'
    if (path === '/cut') return (response) => response.destroy()
    return (response) => response.writeHead(307, { Location: '/hook' }).end()
  })
  const reached = { hosts: listed(receiver.host), timeoutMs: 300 }
  for (const [path, reason] of [
    ['/hang', /no whole answer within/],
    ['/cut', /connection .* failed/],
    ['/away', /redirect \(307\)/],
  ] as const) {
    const answer = await post(`${receiver.host}${path}`, reached)
    assert.equal(answer.status, null)
    assert.match(answer.error ?? '', reason)
    assert.equal(answer.isAborted, false)
  }
  assert.equal(receiver.received.length, 3)
})

test('a request that is given up is nothing the endpoint did', async (t) => {
  const receiver = await startWebhookReceiver(t, () => 'hang')
  const stopping = new AbortController()
  const answer = post(receiver.url, { hosts: listed(receiver.host) }, stopping.signal)
  await receiver.waitFor(1)
  stopping.abort()
  assert.equal((await answer).isAborted, true)
})

test('a name that leads into a private network is refused when it is used', async () => {
  for (const address of ['10.0.0.7', '127.0.0.1', '169.254.169.254', '192.168.1.1']) {
    const answer = await post('https://hooks.example.com/', { lookup: async () => [{ address, family: 4 }] })
    assert.equal(answer.status, null)
    assert.match(answer.error ?? '', /not public/)
  }
})

for (const [url, reason] of [
  ['http://app.example.com/', /not https:/],
  ['https://app.example.com:8080/', /port 8080/],
  ['https://10.0.0.7/', /not public/],
  ['https://[::1]/', /not public/],
  ['https://2130706433/', /not public/],
  ['https://user:secret@app.example.com/', /user name or password/],
  ['ftp://app.example.com/', /not https:/],
  ['/hook', /not a URL/],
] as const) {
  test(`${url} is no endpoint`, () => {
    const target = webhookTarget(url, [])
    assert.ok(!target.ok)
    assert.match(target.reason, reason)
  })
}

test('a host that is listed may be asked, in a private network too, and at its own port alone', () => {
  const hosts = listed('http://intranet:8080', 'hooks.internal:9443')
  assert.deepEqual(webhookTarget('http://intranet:8080/hook', hosts), {
    ok: true,
    allowHttp: true,
    allowPrivate: true,
    ports: [8_080],
  })
  assert.equal(webhookTarget('https://hooks.internal:9443/', hosts).ok, true)
  for (const url of ['http://intranet/hook', 'http://intranet:8081/', 'https://hooks.internal:9444/']) {
    assert.equal(webhookTarget(url, hosts).ok, false, url)
  }
})
