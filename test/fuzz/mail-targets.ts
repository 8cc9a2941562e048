import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import addressparser from 'nodemailer/lib/addressparser'
import { createBounceAddresses } from '../../src/bounce-address.ts'
import { classify, SMTP_PHASES } from '../../src/dispatch/classify.ts'
import {
  DEFERRED_CODES,
  REFUSED_CODES,
  UNKNOWN_CODES,
  UNREACHABLE_CODES,
} from '../../src/dispatch/transport.ts'
import { parseMailReport } from '../../src/feedback/parse/mail-report.ts'
import { storable } from '../../src/feedback/storable.ts'
import { formatAddress, parseAddress } from '../../src/message/address.ts'
import { lineFault } from '../../src/message/message-text.ts'
import { readScheduledAt } from '../../src/message/scheduled-at.ts'
import { parseSmtpUrl } from '../../src/smtp-url.ts'
import { createUnsubscribeLinks } from '../../src/unsubscribe-links.ts'
import { HOSTILE_STRINGS } from '../support/hostile-strings.ts'
import { fuzzTarget, mutated } from './target.ts'

const REPORTS = new URL('../feedback/reports/', import.meta.url)
const reports = readdirSync(REPORTS).map((name) => readFileSync(new URL(name, REPORTS), 'latin1'))
const addresses = createBounceAddresses(Buffer.alloc(32, 1))
const NOW = Date.UTC(2027, 0, 15, 12)

export const bounces = fuzzTarget('bounces', 'bounces and complaints, altered anywhere', {
  cases: fc.record({ mail: mutated(reports), requiresBounceAddress: fc.boolean() }),
  check: async ({ mail, requiresBounceAddress }) => {
    const raw = {
      endpoint: 'dsn',
      eventKey: 'x',
      receivedAt: new Date(NOW),
      provider: 'default',
      body: Buffer.from(mail, 'latin1'),
    }
    const { events, faults, ignored } = await parseMailReport(raw, { addresses, requiresBounceAddress })
    assert.ok(events.length + faults.length + ignored.length > 0, 'nothing was said of it')
    assertStorable(events)
  },
})

export function assertStorable(
  events: Parameters<typeof storable>[0][] | readonly Parameters<typeof storable>[0][],
) {
  for (const event of events) {
    const { key, at, recipient, detail } = storable(event, NOW)
    assert.ok(key.length > 0 && key.length <= 300, key)
    assert.ok(Date.parse(at) <= NOW, at)
    const text = JSON.stringify([key, recipient, detail, event.match])
    assert.ok(text.isWellFormed() && !/\\u0000|\\ud[89a-f]/i.test(text), text)
  }
}

const BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const links = createUnsubscribeLinks(Buffer.alloc(32, 2), 'https://mail.example')
const unsubscription = {
  messageId: '0197a2b4-7c1e-7d3a-9f00-1234567890ab',
  stream: 'marketing',
  address: 'ann@example.net',
}
const token = links.urlOf(unsubscription)?.split('/').at(-1) ?? ''

export const unsubscribeTokens = fuzzTarget('unsubscribe-tokens', 'tokens of unsubscribe links, altered', {
  cases: fc.oneof(
    mutated([token]),
    fc
      .tuple(fc.nat(token.length - 1), fc.constantFrom(...BASE64URL))
      .map(([at, character]) => token.slice(0, at) + character + token.slice(at + 1)),
  ),
  check: (given) => {
    assert.deepEqual(links.read(given), given === token ? unsubscription : undefined)
  },
})

const MAILBOXES = [
  ...[
    'a@example.com',
    'Ada Lovelace <ada@example.com>',
    '"Doe, \\"J\\"" <j@xn--mnchen-3ya.de>',
    'a@münchen.de',
  ],
  ...HOSTILE_STRINGS.filter((text) => text.length < 200),
]

export const mailboxes = fuzzTarget('addresses', 'mailboxes as a caller gives them', {
  cases: mutated(MAILBOXES),
  check: (given) => {
    const parsed = parseAddress(given)
    if (!parsed.ok) {
      assert.equal(lineFault(parsed.reason), undefined, parsed.reason)
      return
    }
    const { address, name = '' } = parsed.address
    assert.match(address, /^[!-;=?-~]+@[a-z0-9.-]+$/)
    assert.equal(lineFault(name), undefined)
    assert.deepEqual(parseAddress(formatAddress(parsed.address)), parsed)
    const read = addressparser(formatAddress(parsed.address), { flatten: true })
    assert.deepEqual(
      read.map((each) => each.address),
      [address],
    )
  },
})

const VERDICTS = new Set<string>([
  ...REFUSED_CODES,
  ...DEFERRED_CODES,
  ...UNREACHABLE_CODES,
  ...UNKNOWN_CODES,
])
const REPLIES = [
  '550 5.1.1 <ann@example.net>: Recipient address rejected: User unknown in virtual mailbox table',
  '421 4.7.28 Our system has detected an unusual rate of unsolicited mail. Try again in 60 seconds',
  '452 4.2.2 The email account that you tried to reach is over quota',
  '451 4.7.1 Greylisting in action, please come back later (in 00:05:00)',
]

export const smtpReplies = fuzzTarget('smtp-replies', 'what relays answer', {
  cases: fc.record(
    {
      phase: fc.constantFrom(...SMTP_PHASES),
      smtpCode: fc.oneof(fc.integer({ min: 100, max: 699 }), fc.integer(), fc.double()),
      enhancedCode: fc.oneof(fc.stringMatching(/^[245]\.\d{1,3}\.\d{1,3}$/), fc.string()),
      reply: mutated(REPLIES),
      clientCode: fc.string(),
      systemCode: fc.oneof(fc.constantFrom('ECONNREFUSED', 'ERR_SSL_X', 'ENOTFOUND'), fc.string()),
    },
    { requiredKeys: ['phase'] },
  ),
  check: (fault) => {
    const verdict = classify(fault)
    assert.ok(VERDICTS.has(verdict.code), JSON.stringify(verdict))
    // A permanent verdict needs a permanent answer: what says less must never lose a message or an address.
    if (verdict.kind === 'refused') assert.match(String(fault.smtpCode), /^5\d\d/)
  },
})

const TIMES = [
  ...['2027-01-16T12:00:00Z', '2027-01-16 12:00:00.123456789+02', 'in 1 hour', 'tomorrow at 9am PT'],
  ...[
    'next friday 5pm UTC+5:30',
    'in 2 weeks and 3 days',
    'noon',
    'Jan 20 2027 at 10:00 GMT',
    'tonight at 8',
  ],
]

export const schedules = fuzzTarget('schedules', 'moments to send at', {
  cases: mutated(TIMES),
  check: (given) => {
    const read = readScheduledAt(given, NOW)
    if (read.ok) assert.ok(Number.isInteger(read.at) && read.at <= NOW + 30 * 86_400_000, String(read.at))
    else assert.equal(lineFault(read.reason), undefined, read.reason)
  },
})

const PASSWORD = 'hunter2-hunter2'
const URLS = [
  `smtp://user:${PASSWORD}@mail.example.com:587?tls=required`,
  `smtps://u%40x:${PASSWORD}@[::1]:465?tls_verify=false&socket_timeout_s=2.5`,
  'smtp://localhost:1025',
]

export const smtpUrls = fuzzTarget('smtp-urls', 'SMTP_URL as somebody sets it', {
  cases: mutated(URLS),
  check: (given) => {
    try {
      const { host, port, timeouts } = parseSmtpUrl(given)
      assert.ok(host !== '' && Number.isInteger(port) && port > 0 && port < 65_536, `${host} ${port}`)
      for (const ms of Object.values(timeouts)) assert.ok(ms > 0 && ms <= 600_000)
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error
      const { message } = error as Error
      assert.match(message, /SMTP URL|smtps:/)
      assert.ok(!message.includes('hunter2'), message)
    }
  },
})
