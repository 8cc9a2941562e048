import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  openTransport,
  type TransportSettings,
  TransportSettingsError,
} from '../../../src/dispatch/open-transport.ts'
import { startSmtpSink } from '../../support/smtp-sink.ts'
import { toOne, verdict } from './outgoing-mail.ts'

const SECRET = 'sEcReT0123'

const WRONG: readonly (readonly [Partial<Record<keyof TransportSettings, unknown>>, string])[] = [
  [{ transport: 'pigeon' }, 'unknown_transport'],
  [{ maxConnections: 0 }, 'bad_max_connections'],
  [{ maxConnections: 1.5 }, 'bad_max_connections'],
  [{ credentials: '' }, 'bad_credentials'],
  [{ credentials: `${SECRET}\r\nX-Evil: 1` }, 'bad_credentials'],
  [{ baseUrl: 'http://api.resend.com' }, 'bad_base_url'],
  [{ baseUrl: 'ftp://127.0.0.1' }, 'bad_base_url'],
  [{ baseUrl: `https://user:${SECRET}@api.resend.com` }, 'bad_base_url'],
  [{ baseUrl: 'https://api.resend.com/?x=1' }, 'bad_base_url'],
  [{ baseUrl: 'nonsense' }, 'bad_base_url'],
  [{ options: { speed: 'high' } }, 'unknown_option'],
  [{ transport: 'ses', credentials: `AKIA:${SECRET}` }, 'missing_option'],
  [{ transport: 'ses', credentials: `AKIA:${SECRET}`, options: { region: 'x/../y' } }, 'bad_option'],
  [{ transport: 'ses', credentials: SECRET, options: { region: 'eu-west-1' } }, 'bad_credentials'],
  [{ transport: 'mailgun' }, 'missing_option'],
  [{ transport: 'mailgun', options: { domain: 'a/../b' } }, 'bad_option'],
  [{ transport: 'mailgun', options: { domain: 'mg.test', region: 'mars' } }, 'bad_option'],
  [{ transport: 'postmark', options: { message_stream: 'a b' } }, 'bad_option'],
  [{ transport: 'smtp', credentials: `http://u:${SECRET}@relay.test` }, 'bad_credentials'],
  [{ transport: 'smtp', credentials: `smtp://u:${SECRET}%@relay.test` }, 'bad_credentials'],
  [{ transport: 'smtp', credentials: 'smtp://relay.test', baseUrl: 'https://x.test' }, 'bad_base_url'],
  [{ transport: 'smtp', credentials: 'smtp://relay.test', options: { tls: 'none' } }, 'unknown_option'],
]

for (const [settings, code] of WRONG) {
  test(`settings that cannot work are refused at once, without the secret: ${code} ${JSON.stringify(settings)}`, () => {
    const given = {
      transport: 'resend',
      credentials: SECRET,
      maxConnections: 1,
      ...settings,
    } as TransportSettings
    assert.throws(
      () => openTransport(given),
      (error: unknown) => {
        assert.ok(error instanceof TransportSettingsError)
        assert.equal(error.code, code)
        assert.ok(!`${error.message}${String(error.cause)}`.includes(SECRET))
        return true
      },
    )
  })
}

test('no credentials or options make anything but a transport or a settings error', async () => {
  const anySettings = fc.record({
    transport: fc.constantFrom('smtp', 'ses', 'sendgrid', 'mailgun', 'postmark', 'resend'),
    credentials: fc.oneof(fc.string({ unit: 'binary' }), fc.webUrl(), fc.constant('AKIA:x:y')),
    options: fc.dictionary(fc.constantFrom('region', 'domain', 'message_stream', '__proto__'), fc.string()),
    maxConnections: fc.integer({ min: -1, max: 5 }),
  })
  await fc.assert(
    fc.asyncProperty(anySettings, async (settings) => {
      try {
        await openTransport(settings as TransportSettings).close()
      } catch (error) {
        assert.ok(error instanceof TransportSettingsError, String(error))
      }
    }),
  )
})

test('the transport smtp sends to the relay of its URL', async (t) => {
  const sink = await startSmtpSink(t)
  const transport = openTransport({ transport: 'smtp', credentials: sink.url, maxConnections: 1 })
  t.after(() => transport.close())
  assert.equal(verdict(await transport.send(toOne(1))), 'accepted')
  assert.deepEqual(sink.mails[0]?.to, ['user1@mail.test'])
})
