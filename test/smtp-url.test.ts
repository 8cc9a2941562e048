import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseSmtpUrl } from '../src/smtp-url.ts'

test('an SMTP URL is read, with defaults for what it leaves out', () => {
  assert.deepEqual(parseSmtpUrl('smtp://relay.test'), {
    host: 'relay.test',
    port: 587,
    secure: false,
    tls: 'required',
    verify: true,
    timeouts: { connectMs: 10_000, greetingMs: 10_000, socketMs: 60_000 },
  })
  const url = 'smtps://u%40x:p%25@[::1]:2465?tls_verify=false&connect_timeout_s=2.5&socket_timeout_s=600'
  assert.deepEqual(parseSmtpUrl(url), {
    host: '::1',
    port: 2465,
    secure: true,
    tls: 'required',
    verify: false,
    timeouts: { connectMs: 2_500, greetingMs: 10_000, socketMs: 600_000 },
    auth: { user: 'u@x', pass: 'p%' },
  })
})

test('an SMTP URL that cannot be meant is refused, and the password is not repeated', () => {
  const wrong = [
    'http://user:secret@relay.test',
    'smtp://',
    'relay.test:25',
    'smtp://user:secret@relay.test?tls=maybe',
    'smtp://user:secret@relay.test?tls_verify=1',
    'smtp://user:secret@relay.test?pool=true',
    'smtps://user:secret@relay.test?tls=none',
    'smtp://user:secret%@relay.test',
    ...['0', '-1', '601', '0.0001', '1e3', '', 'soon'].map(
      (seconds) => `smtp://user:secret@relay.test?socket_timeout_s=${seconds}`,
    ),
  ]
  for (const url of wrong) {
    assert.throws(
      () => parseSmtpUrl(url),
      (error) => error instanceof Error && !error.message.includes('secret'),
      url,
    )
  }
})

test('mail leaves this machine over TLS, unless the URL says otherwise; on it TLS is used where it is offered', () => {
  const tlsOf = (url: string) => parseSmtpUrl(url).tls
  for (const host of [
    'relay.test',
    '10.0.0.1',
    '[2001:db8::1]',
    '127.0.0.1.relay.test',
    'localhost.relay.test',
    '0.0.0.0',
  ]) {
    assert.equal(tlsOf(`smtp://${host}:25`), 'required', host)
    assert.equal(parseSmtpUrl(`smtp://${host}:25`).verify, true)
    for (const tls of ['none', 'opportunistic']) assert.equal(tlsOf(`smtp://${host}:25?tls=${tls}`), tls)
  }
  for (const host of ['localhost', 'LOCALHOST', 'relay.localhost', '127.0.0.1', '127.1.2.3', '[::1]']) {
    assert.equal(tlsOf(`smtp://${host}:25`), 'opportunistic', host)
  }
})
