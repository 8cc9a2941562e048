/** Relays and APIs that are not as the settings say, found out without a mail being sent. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import { certificateOf, checkProvider, type ProviderRow, plainOf } from '../../src/doctor/providers.ts'
import { startStandIn } from '../support/provider-stand-ins.ts'
import { startRawSmtp, startSmtpSink } from '../support/smtp-sink.ts'
import { assertAllOk, assertFinding } from './findings.ts'

const RELAY: ProviderRow = {
  name: 'relay',
  transport: 'smtp',
  credentials_env: 'RELAY',
  base_url: null,
  options: {},
  held: null,
}

function check(row: Partial<ProviderRow>, environment: Record<string, string>, isProduction = false) {
  return checkProvider({ ...RELAY, ...row }, { environment, isProduction })
}

describe('a relay', () => {
  test('that lets us in is well, and got no mail', async (t) => {
    const sink = await startSmtpSink(t, { auth: { user: 'me', pass: 'secret' } })
    const findings = await check({}, { RELAY: `smtp://me:secret@${sink.host}?tls=none` })
    assertAllOk(findings)
    assert.match(findings[0]?.found ?? '', /logged in as me$/)
    await sink.waitUntilQuiet()
    assert.deepEqual(sink.mails, [])
  })

  for (const { what, environment, says } of [
    { what: 'without its variable', environment: {}, says: /the variable RELAY.* is not set here/ },
    {
      what: 'whose URL cannot be read',
      environment: { RELAY: 'smtp://h?tls=maybe' },
      says: /bad_credentials.*`tls` must be/,
    },
    { what: 'that does not exist', environment: { RELAY: 'smtp://relay.invalid' }, says: /^dns_failed/ },
    { what: 'that nobody runs', environment: { RELAY: 'smtp://127.0.0.1:1' }, says: /^connect_failed/ },
  ]) {
    test(`${what} is a problem`, async () => {
      assertFinding(await check({}, environment as Record<string, string>), 'provider relay', 'problem', says)
    })
  }

  test('with a wrong password, or none to ask for, is a problem', async (t) => {
    const strict = await startSmtpSink(t, { auth: { user: 'me', pass: 'secret' } })
    const wrong = await check({}, { RELAY: `smtp://me:wrong@${strict.host}?tls=none` })
    const { found } = assertFinding(wrong, 'provider relay', 'problem', /^auth_failed/)
    assert.doesNotMatch(found, /wrong@/)
    const plain = await check({}, { RELAY: `smtp://me:secret@${strict.host}` })
    assertFinding(plain, 'provider relay', 'problem', /^auth_needs_tls/)
    const open = await startSmtpSink(t)
    const needless = await check({}, { RELAY: `smtp://me:secret@${open.host}?tls=none` })
    assertFinding(needless, 'provider relay', 'problem', /^auth_unavailable/)
  })

  test('whose certificate proves nothing is a problem, unless it is not to be verified', async (t) => {
    for (const tls of ['starttls', 'implicit'] as const) {
      const sink = await startSmtpSink(t, { tls })
      assertFinding(await check({}, { RELAY: sink.url }), 'provider relay', 'problem', /^tls_failed/)
      const trusting = await check({}, { RELAY: `${sink.url}?tls_verify=false` })
      assertFinding(trusting, 'provider relay', 'ok', /without a login/)
      assert.ok(
        trusting.some(({ name, found }) => name === 'provider relay, certificate' && /ends /.test(found)),
      )
    }
  })

  test('that takes the connection and says nothing is given up', async (t) => {
    const silent = await startRawSmtp(t, [])
    assertFinding(await check({}, { RELAY: silent.url }), 'provider relay', 'problem', /^timed_out/)
  })

  test('that refuses us in its greeting is quoted', async (t) => {
    const rude = await startRawSmtp(t, ['554 5.7.1 Your\u001b[2J address is listed\r\n'])
    assertFinding(await check({}, { RELAY: rude.url }), 'provider relay', 'problem', /address is listed/)
  })
})

test('what holds a provider back now is told with it', async (t) => {
  const sink = await startSmtpSink(t)
  const findings = await check({ held: 'its breaker is open: 30 faults' }, { RELAY: sink.url })
  assertFinding(findings, 'provider relay', 'ok', /without a login/)
  assertFinding(findings, 'provider relay, now', 'warning', /breaker is open/)
})

test('the local inbox is for development', async () => {
  assertAllOk(await check({ transport: 'inbox', credentials_env: null }, {}))
  const inProduction = await check({ transport: 'inbox', credentials_env: null }, {}, true)
  assertFinding(inProduction, 'provider relay', 'problem', /refused when NODE_ENV=production/)
})

test('a certificate about to end is told of', () => {
  const ending = (days: number) => ({
    certificate: { name: 'mx.example.com', expiresAt: new Date(Date.now() + days * 86_400_000) },
  })
  assertAllOk(certificateOf('provider relay', ending(30)))
  const name = 'provider relay, certificate'
  assertFinding(
    certificateOf('provider relay', ending(5.1)),
    name,
    'warning',
    /^mx.example.com, ends in 5 days$/,
  )
  assertFinding(certificateOf('provider relay', ending(-3)), name, 'warning', /ends 3 days ago$/)
})

test('mail in the clear to another host is told of', () => {
  const open = { verdict: 'usable', isEncrypted: false } as const
  assertFinding(
    plainOf('relay', 'smtp://mx.example.com', open),
    'relay, encryption',
    'warning',
    /mx.example.com without/,
  )
  assert.deepEqual(plainOf('relay', 'smtp://127.0.0.1:25', open), [])
  assert.deepEqual(plainOf('relay', 'smtp://mx.example.com', { ...open, isEncrypted: true }), [])
})

type Asked = { readonly method: string; readonly path: string; readonly headers: IncomingMessage['headers'] }

/** An API that gives one answer, and remembers what it was asked. */
async function startApi(t: TestContext, status: number, body: unknown) {
  const asked: Asked[] = []
  const server = createServer((request, response) => {
    asked.push({ method: request.method ?? '', path: request.url ?? '', headers: request.headers })
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked }
}

const API_KEYS = {
  sendgrid: { key: 'SG.x', options: {}, path: '/v3/scopes', header: ['authorization', 'Bearer SG.x'] },
  postmark: { key: 'pm-1234', options: {}, path: '/server', header: ['x-postmark-server-token', 'pm-1234'] },
  resend: { key: 're_x', options: {}, path: '/domains', header: ['authorization', 'Bearer re_x'] },
  mailgun: {
    key: 'mg-1234',
    options: { domain: 'mg.example.com' },
    path: '/v3/domains/mg.example.com',
    header: ['authorization', `Basic ${Buffer.from('api:mg-1234').toString('base64')}`],
  },
  ses: { key: 'AKID:secret', options: { region: 'eu-west-1' }, path: '/v2/email/account', header: undefined },
} as const

const ACCOUNT = { SendingEnabled: true, ProductionAccessEnabled: true }

for (const { transport, status, body, verdict, says } of [
  { transport: 'sendgrid', status: 200, body: { scopes: ['mail.send'] }, verdict: 'ok', says: /may send/ },
  {
    transport: 'sendgrid',
    status: 200,
    body: { scopes: ['stats.read'] },
    verdict: 'problem',
    says: /lacks the permission mail.send/,
  },
  { transport: 'sendgrid', status: 401, body: {}, verdict: 'problem', says: /not accepted/ },
  { transport: 'sendgrid', status: 503, body: {}, verdict: 'warning', says: /answered 503/ },
  { transport: 'postmark', status: 200, body: { Name: 'x' }, verdict: 'ok', says: /accepted/ },
  { transport: 'postmark', status: 401, body: { ErrorCode: 10 }, verdict: 'problem', says: /not accepted/ },
  { transport: 'resend', status: 200, body: { data: [] }, verdict: 'ok', says: /accepted/ },
  {
    transport: 'resend',
    status: 401,
    body: { name: 'restricted_api_key', message: 'x' },
    verdict: 'ok',
    says: /may only send/,
  },
  {
    transport: 'resend',
    status: 403,
    body: { name: 'invalid_api_key', message: 'x' },
    verdict: 'problem',
    says: /not accepted/,
  },
  {
    transport: 'mailgun',
    status: 200,
    body: { domain: { state: 'active' } },
    verdict: 'ok',
    says: /is active/,
  },
  {
    transport: 'mailgun',
    status: 200,
    body: { domain: { state: 'unverified' } },
    verdict: 'problem',
    says: /not active/,
  },
  { transport: 'mailgun', status: 401, body: {}, verdict: 'warning', says: /is wrong, or may only send/ },
  { transport: 'mailgun', status: 404, body: {}, verdict: 'problem', says: /does not know the domain/ },
  { transport: 'ses', status: 200, body: ACCOUNT, verdict: 'ok', says: /may send/ },
  {
    transport: 'ses',
    status: 200,
    body: { ...ACCOUNT, SendingEnabled: false },
    verdict: 'problem',
    says: /paused/,
  },
  {
    transport: 'ses',
    status: 200,
    body: { ...ACCOUNT, ProductionAccessEnabled: false },
    verdict: 'warning',
    says: /sandbox/,
  },
  {
    transport: 'ses',
    status: 403,
    body: { __type: 'AccessDeniedException' },
    verdict: 'warning',
    says: /ses:GetAccount/,
  },
  {
    transport: 'ses',
    status: 403,
    body: { __type: 'x#SignatureDoesNotMatch' },
    verdict: 'problem',
    says: /not accepted \(SignatureDoesNotMatch\)/,
  },
] as const) {
  test(`${transport} that answers ${status} ${JSON.stringify(body)} is ${verdict}`, async (t) => {
    const { key, options, path, header } = API_KEYS[transport]
    const api = await startApi(t, status, body)
    const findings = await check({ transport, options, base_url: api.url }, { RELAY: key })
    const { found } = assertFinding(findings, 'provider relay', verdict, says)
    assert.ok(!found.includes(key))
    const [asked, ...more] = api.asked
    assert.deepEqual([asked?.method, asked?.path, more], ['GET', path, []])
    if (header === undefined)
      assert.match(
        asked?.headers.authorization ?? '',
        /^AWS4-HMAC-SHA256 Credential=AKID\/\d+\/eu-west-1\/ses\//,
      )
    else assert.equal(asked?.headers[header[0]], header[1])
  })
}

test('an API whose certificate proves nothing, that is not there, or that hangs up is a problem', async (t) => {
  const row = { transport: 'resend', options: {} } as const
  const untrusted = await startStandIn(t, 'resend', { tls: true })
  const about = async (base_url: string) => check({ ...row, base_url }, { RELAY: 're_x' })
  assertFinding(await about(untrusted.url), 'provider relay', 'problem', /^tls_failed/)
  assertFinding(await about('http://127.0.0.1:1'), 'provider relay', 'problem', /^connect_failed/)
  assertFinding(await about('https://api.invalid'), 'provider relay', 'problem', /^dns_failed/)
  const rude = await startRawSmtp(t, [(socket) => socket.destroy()])
  assertFinding(
    await about(rude.url.replace('smtp:', 'http:')),
    'provider relay',
    'problem',
    /^connection_lost/,
  )
})
