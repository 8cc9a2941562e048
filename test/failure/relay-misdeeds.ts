import type { Socket } from 'node:net'
import { POLITE, type RawStep } from '../support/smtp-sink.ts'

export const ATTEMPTS = 2
/** The whole content has arrived: a copy that its recipient may see. Whoever plays the script puts a count here. */
export const gotIt = () => undefined
const hangUp = (socket: Socket) => socket.end()
const reset = (socket: Socket) => socket.resetAndDestroy()

const { greeting, mail, recipient, data } = POLITE
const content: readonly RawStep[] = [{ expect: /\r\n\.\r\n/ }, gotIt]
const toMail: readonly RawStep[] = [...greeting, { expect: /MAIL FROM:.*\r\n/ }]
const toRecipient: readonly RawStep[] = [...greeting, ...mail, { expect: /RCPT TO:.*\r\n/ }]
const toData: readonly RawStep[] = [...greeting, ...mail, ...recipient, { expect: /DATA\r\n/ }]
const asked: readonly RawStep[] = [...greeting, ...mail, ...recipient, ...data]
const handedOver: readonly RawStep[] = [...asked, ...content]
/** Takes one mail and hangs up, so that no connection outlives its row of the table. */
const POLITE_RELAY: readonly RawStep[] = [...handedOver, '250 2.0.0 Queued\r\n', hangUp]
const AUTH_OFFER: readonly RawStep[] = [
  '220 raw.test ESMTP\r\n',
  { expect: /EHLO .*\r\n/ },
  '250-raw.test\r\n250 AUTH PLAIN\r\n',
  { expect: /AUTH PLAIN .*\r\n/ },
]

/** Whoever plays the script passes the connection to a relay with STARTTLS here. */
export const encrypt = () => undefined

/** By the settings of its provider, or of its stream: `hold` is on_unknown. */
export type LaneKind = 'retry' | 'hold' | 'auth' | 'tls'

export type Row = {
  readonly does: string
  /** What the relay does on the first connection; on later ones it is polite. */
  readonly script: readonly RawStep[]
  /** On every connection, until the message came to its end. */
  readonly always?: true
  /** The message's timeline from its first claim on; its last word is how it ends. */
  readonly ends: string
  /** Contents that arrived whole at the relay. */
  readonly copies: number
  readonly lane?: LaneKind
  readonly mail?: Readonly<Record<string, unknown>>
  /** At least so long between the first word of the timeline and the last. */
  readonly waitsS?: number
  /** Leaves a connection open that would serve the next message just as badly. */
  readonly lingers?: true
  /** The provider as a whole is left alone for a while. */
  readonly blocks?: true
}

function readSlowly(socket: Socket): void {
  const timer = setInterval(() => {
    socket.resume()
    setImmediate(() => socket.pause())
  }, 20)
  socket.once('close', () => clearInterval(timer))
}

/** Digits that begin an answer, without end. */
function trickle(socket: Socket): void {
  const timer = setInterval(() => socket.write('2'), 100)
  socket.once('close', () => clearInterval(timer))
}

const REFUSED_AT: readonly (readonly [string, readonly RawStep[], string, string, number])[] = [
  ['the banner', [], '421 4.3.2 Shutting down', 'unreachable service_unavailable, sent', 1],
  ['the banner', [], '450 Not now', 'unreachable service_unavailable, sent', 1],
  ['the banner', [], '554 No mail here', 'unreachable service_unavailable, sent', 1],
  ['EHLO', greeting.slice(0, 2), '421 4.3.2 Shutting down', 'unreachable service_unavailable, sent', 1],
  ['MAIL', toMail, '421 4.3.2 Shutting down', 'unreachable service_unavailable, sent', 1],
  ['MAIL', toMail, '451 4.3.0 Not now', 'deferred smtp_deferred, sent', 1],
  ['MAIL', toMail, '550 Not this sender', 'dead sender_refused', 0],
  ['RCPT', toRecipient, '421 4.3.2 Shutting down', 'unreachable service_unavailable, sent', 1],
  ['RCPT', toRecipient, '451 4.3.0 Not now', 'deferred smtp_deferred, sent', 1],
  ['RCPT', toRecipient, '503 5.5.1 Send MAIL first', 'deferred session_fault, sent', 1],
  ['RCPT', toRecipient, '550 5.1.1 No such user', 'recipient_refused bad_recipient, dead bad_recipient', 0],
  ['RCPT', toRecipient, '550 Blocked by policy', 'recipient_refused policy_refused, dead policy_refused', 0],
  ['DATA', toData, '421 4.3.2 Shutting down', 'unreachable service_unavailable, sent', 1],
  ['DATA', toData, '451 4.3.0 Not now', 'deferred smtp_deferred, sent', 1],
  ['DATA', toData, '554 No valid recipients', 'dead smtp_refused', 0],
  ['the dot', handedOver, '421 4.3.2 Shutting down', 'deferred service_unavailable, sent', 2],
  ['the dot', handedOver, '451 4.3.0 Not now', 'deferred smtp_deferred, sent', 2],
  ['the dot', handedOver, '554 5.6.0 Malformed', 'dead content_refused', 1],
]

export const ROWS: readonly Row[] = [
  { does: 'never greets', script: [], ends: 'unreachable timed_out, sent', copies: 1 },
  {
    does: 'never answers EHLO',
    script: greeting.slice(0, 2),
    ends: 'unreachable timed_out, sent',
    copies: 1,
  },
  { does: 'never answers MAIL', script: toMail, ends: 'unreachable timed_out, sent', copies: 1 },
  { does: 'never answers RCPT', script: toRecipient, ends: 'unreachable timed_out, sent', copies: 1 },
  { does: 'never answers DATA', script: toData, ends: 'unreachable timed_out, sent', copies: 1 },
  { does: 'never answers the dot', script: handedOver, ends: 'unknown timed_out, sent', copies: 2 },
  {
    does: 'never answers any dot',
    script: handedOver,
    always: true,
    ends: 'unknown timed_out, dead timed_out',
    copies: ATTEMPTS,
  },
  { does: 'never answers the dot', script: handedOver, ends: 'unknown timed_out', copies: 1, lane: 'hold' },

  { does: 'hangs up without a word', script: [hangUp], ends: 'unreachable connection_lost, sent', copies: 1 },
  {
    does: 'resets after the banner',
    script: ['220 raw.test ESMTP\r\n', { expect: /EHLO/ }, reset],
    ends: 'unreachable connection_lost, sent',
    copies: 1,
  },
  {
    does: 'hangs up after MAIL',
    script: [...toMail, hangUp],
    ends: 'unreachable connection_lost, sent',
    copies: 1,
  },
  {
    does: 'resets after DATA',
    script: [...toData, reset],
    ends: 'unreachable connection_lost, sent',
    copies: 1,
  },
  {
    does: 'drops the connection in the content',
    script: [...asked, { expect: /Subject/ }, reset],
    ends: 'unknown connection_lost, sent',
    copies: 1,
  },
  {
    does: 'drops the connection in the content',
    script: [...asked, { expect: /Subject/ }, reset],
    ends: 'unknown connection_lost',
    copies: 0,
    lane: 'hold',
  },
  {
    does: 'resets after the dot',
    script: [...handedOver, reset],
    ends: 'unknown connection_lost, sent',
    copies: 2,
  },
  {
    does: 'hangs up after the dot',
    script: [...handedOver, hangUp],
    ends: 'unknown connection_lost',
    copies: 1,
    lane: 'hold',
  },
  { does: 'hangs up after its 250', script: [...handedOver, '250 Ok\r\n', hangUp], ends: 'sent', copies: 1 },
  {
    does: 'resets after its 250',
    script: [...handedOver, '250 Ok\r\n', (socket) => setImmediate(reset, socket)],
    ends: 'sent',
    copies: 1,
    lane: 'hold',
  },
  {
    does: 'hangs up in the middle of its 250',
    script: [...handedOver, '250-Ok\r\n25', hangUp],
    ends: 'unknown connection_lost, sent',
    copies: 2,
  },

  ...REFUSED_AT.map(([at, script, reply, ends, copies]) => ({
    does: `answers ${at} with ${reply}`,
    script: [...script, `${reply}\r\n`, hangUp],
    ends,
    copies,
  })),
  ...['451 Not now', '550 Not you'].map((reply) => ({
    does: `answers EHLO and HELO with ${reply}`,
    script: [...greeting.slice(0, 2), `${reply}\r\n`, { expect: /HELO/ }, `${reply}\r\n`],
    ends: 'unreachable service_unavailable, sent',
    copies: 1,
  })),
  {
    does: 'knows HELO only',
    script: [
      ...greeting.slice(0, 2),
      '502 5.5.1 Unknown\r\n',
      { expect: /HELO/ },
      '250 raw.test\r\n',
      ...POLITE_RELAY.slice(greeting.length),
    ],
    ends: 'sent',
    copies: 1,
  },
  {
    does: 'refuses every RCPT for now',
    script: [...toRecipient, '451 4.3.0 Not now\r\n'],
    always: true,
    ends: 'deferred smtp_deferred, dead smtp_deferred',
    copies: 0,
  },
  {
    does: 'takes one recipient and puts off the other',
    script: [
      ...greeting,
      ...mail,
      ...recipient,
      { expect: /RCPT TO:.*\r\n/ },
      '451 4.3.0 Not now\r\n',
      ...data,
      ...content,
      '250 Ok\r\n',
      hangUp,
    ],
    mail: { to: ['ann@example.net', 'bob@example.net'] },
    ends: 'recipient_sent, deferred smtp_deferred, sent',
    copies: 2,
  },

  {
    does: 'throttles and names a time',
    script: [...toRecipient, '451 4.7.1 Rate limit exceeded, try again in 3 seconds\r\n'],
    ends: 'unreachable throttled, sent',
    copies: 1,
    waitsS: 3,
    blocks: true,
  },
  {
    does: 'throttles after the dot',
    script: [...handedOver, '454 Throttling failure: Maximum sending rate exceeded\r\n'],
    ends: 'unreachable throttled, sent',
    copies: 2,
    waitsS: 1,
    blocks: true,
  },
  {
    does: 'grey-lists and names a time',
    script: [...toRecipient, '450 4.2.0 Greylisted, try again in 3 seconds\r\n'],
    ends: 'deferred smtp_deferred, sent',
    copies: 1,
    waitsS: 3,
  },

  {
    does: 'greets with garbage',
    script: ['\x00\xff\xfe what\r\n'],
    ends: 'unreachable protocol_error, sent',
    copies: 1,
  },
  {
    does: 'greets with an endless line',
    script: ['2'.repeat(200_000)],
    ends: 'unreachable protocol_error, sent',
    copies: 1,
  },
  {
    does: 'answers MAIL with garbage',
    script: [...toMail, '\xff\xfe\r\n'],
    ends: 'unreachable protocol_error, sent',
    copies: 1,
  },
  {
    does: 'answers RCPT with an endless line',
    script: [...toRecipient, `550 ${'x'.repeat(200_000)}`],
    ends: 'unreachable protocol_error, sent',
    copies: 1,
  },
  {
    does: 'answers DATA with 250',
    script: [...toData, '250 Ok\r\n'],
    ends: 'unreachable protocol_error, sent',
    copies: 1,
  },
  {
    does: 'answers the dot with garbage',
    script: [...handedOver, '2\xfe\r\n'],
    ends: 'unknown protocol_error',
    copies: 1,
    lane: 'hold',
  },
  {
    does: 'refuses in words that are not UTF-8, with control characters',
    script: [...toRecipient, '550 5.1.1 Caf\xe9\x00\x1b[31m \xed\xa0\x80 gone\r\n', hangUp],
    ends: 'recipient_refused bad_recipient, dead bad_recipient',
    copies: 0,
  },
  {
    does: 'refuses in a line of 60,000 characters',
    script: [...toRecipient, `550 5.1.1 ${'gone '.repeat(12_000)}\r\n`, hangUp],
    ends: 'recipient_refused bad_recipient, dead bad_recipient',
    copies: 0,
  },
  {
    does: 'refuses in several lines',
    script: [...toRecipient, '550-5.1.1 There is\r\n550-5.1.1 no such\r\n550 5.1.1 user\r\n', hangUp],
    ends: 'recipient_refused bad_recipient, dead bad_recipient',
    copies: 0,
  },
  {
    does: 'accepts in several lines',
    script: [...handedOver, '250-2.0.0 Ok\r\n250', ' Queued\r\n', hangUp],
    ends: 'sent',
    copies: 1,
  },
  {
    does: 'trickles its answer to the dot',
    script: [...handedOver, trickle],
    ends: 'unknown timed_out',
    copies: 1,
    lane: 'hold',
  },
  {
    does: 'reads slowly',
    script: [...asked, readSlowly, ...content, '250 Ok\r\n', hangUp],
    mail: { text: 'A line of a long letter.\n'.repeat(20_000) },
    ends: 'sent',
    copies: 1,
  },

  {
    does: 'says that it takes no more than 10 bytes',
    lingers: true,
    script: ['220 raw.test ESMTP\r\n', { expect: /EHLO .*\r\n/ }, '250-raw.test\r\n250 SIZE 10\r\n'],
    ends: 'dead message_too_large',
    copies: 0,
  },
  {
    does: 'takes less than the size it announced',
    script: [
      '220 raw.test ESMTP\r\n',
      { expect: /EHLO .*\r\n/ },
      '250-raw.test\r\n250 SIZE 99999999\r\n',
      ...asked.slice(3),
      ...content,
      '552 5.3.4 Too big\r\n',
      hangUp,
    ],
    ends: 'dead message_too_large',
    copies: 1,
  },

  {
    does: 'refuses the password',
    script: [...AUTH_OFFER, '535 5.7.8 No\r\n', hangUp],
    ends: 'unreachable auth_failed, sent',
    copies: 1,
    lane: 'auth',
  },
  {
    does: 'throttles logins',
    script: [...AUTH_OFFER, '454 4.7.0 Too many login attempts\r\n', hangUp],
    ends: 'unreachable throttled, sent',
    copies: 1,
    lane: 'auth',
    blocks: true,
  },
  {
    does: 'never answers AUTH',
    script: AUTH_OFFER,
    ends: 'unreachable timed_out, sent',
    copies: 1,
    lane: 'auth',
  },
  {
    does: 'offers no AUTH',
    script: greeting,
    ends: 'unreachable auth_unavailable, sent',
    copies: 1,
    lane: 'auth',
  },
  {
    does: 'offers no STARTTLS where TLS is required',
    script: [...greeting, { expect: /STARTTLS\r\n/ }, '502 5.5.1 Unknown\r\n'],
    ends: 'unreachable tls_failed, sent',
    copies: 1,
    lane: 'tls',
  },
  {
    does: 'speaks no TLS after STARTTLS',
    script: [
      '220 raw.test ESMTP\r\n',
      { expect: /EHLO .*\r\n/ },
      '250-raw.test\r\n250 STARTTLS\r\n',
      { expect: /STARTTLS\r\n/ },
      '220 Go\r\n',
      'nonsense\r\n',
    ],
    ends: 'unreachable tls_failed, sent',
    copies: 1,
    lane: 'tls',
  },
]

/** What a relay that is well does with one mail. */
export function politeOf(kind: LaneKind): readonly RawStep[] {
  if (kind === 'tls') return [encrypt]
  if (kind === 'auth') return [...AUTH_OFFER, '235 2.7.0 Ok\r\n', ...POLITE_RELAY.slice(greeting.length)]
  return POLITE_RELAY
}
