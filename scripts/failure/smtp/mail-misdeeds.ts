import {
  ENDLESS,
  hangUp,
  keep,
  LONG_LINE,
  readByteByByte,
  readSlowly,
  reset,
  resetSoon,
  takeContent,
  trickle,
} from './acts.ts'
import { ATTEMPTS, type Misdeed } from './misdeed.ts'

/** What relays do to one mail, from MAIL on. */

/** Longer than buffers on the way, so that the speed of the reader matters. */
export const LONG_LETTER = { text: 'A line of a long letter.\n'.repeat(4_000) }

/** At the steps of a transaction: what is answered, and what follows; those that end the session hang up as well. */
export const REFUSALS: readonly Misdeed[] = (
  [
    ['mail', '421 4.3.2 Shutting down', 'unreachable service_unavailable, sent', 1],
    ['mail', '451 4.3.0 Not now', 'deferred smtp_deferred, sent', 1],
    ['mail', '550 Not this sender', 'dead sender_refused', 0],
    ['rcpt', '421 4.3.2 Shutting down', 'unreachable service_unavailable, sent', 1],
    ['rcpt', '451 4.3.0 Not now', 'deferred smtp_deferred, sent', 1],
    ['rcpt', '503 5.5.1 Send MAIL first', 'deferred session_fault, sent', 1],
    ['rcpt', '550 5.1.1 No such user', 'recipient_refused bad_recipient, dead bad_recipient', 0],
    ['rcpt', '550 Blocked by policy', 'recipient_refused policy_refused, dead policy_refused', 0],
    ['data', '421 4.3.2 Shutting down', 'unreachable service_unavailable, sent', 1],
    ['data', '451 4.3.0 Not now', 'deferred smtp_deferred, sent', 1],
    ['data', '554 No valid recipients', 'dead smtp_refused', 0],
    ['dot', '421 4.3.2 Shutting down', 'deferred service_unavailable, sent', 1],
    ['dot', '451 4.3.0 Not now', 'deferred smtp_deferred, sent', 1],
    ['dot', '552 5.3.4 More than the SIZE we said', 'dead message_too_large', 0],
    ['dot', '554 5.6.0 Malformed', 'dead content_refused', 0],
  ] as const
).map(([at, reply, ends, copies]) => ({
  does: `answers ${at} with ${reply}`,
  acts: { [at]: reply.startsWith('421') ? [`${reply}\r\n`, hangUp] : [`${reply}\r\n`] },
  ends,
  copies,
}))

/** No answer that means anything: before the content nothing was handed over, after it nobody knows. */
export const NONSENSE: readonly Misdeed[] = (['mail', 'rcpt', 'data', 'dot'] as const).flatMap((at) =>
  Object.entries({
    garbage: '\xff\xfe what?\r\n',
    '150': '150 Hold on\r\n',
    'a code of four digits': '5500 No\r\n',
    '999': '999 No\r\n',
    'an endless line': `550 ${LONG_LINE}`,
    'endless lines': ENDLESS('550'),
  }).map(([what, answer]) => ({
    does: `answers ${at} with ${what}`,
    acts: { [at]: at === 'dot' ? [keep, answer] : [answer] },
    ends: `${at === 'dot' ? 'unknown' : 'unreachable'} protocol_error, sent`,
    copies: at === 'dot' ? 2 : 1,
  })),
)

export const CUT: readonly Misdeed[] = [
  ...(['mail', 'rcpt', 'data'] as const).flatMap((at) => [
    {
      does: `hangs up at ${at}`,
      acts: { [at]: [hangUp] },
      ends: 'unreachable connection_lost, sent',
      copies: 1,
    },
    {
      does: `resets at ${at}`,
      acts: { [at]: [reset] },
      ends: 'unreachable connection_lost, sent',
      copies: 1,
    },
  ]),
  {
    does: 'resets in the content',
    acts: { content: [reset] },
    ends: 'unknown connection_lost, sent',
    copies: 1,
  },
  {
    does: 'resets after the dot',
    acts: { dot: [keep, reset] },
    ends: 'unknown connection_lost, sent',
    copies: 2,
  },
  {
    does: 'hangs up in the middle of its 250',
    acts: { dot: [keep, '250-Ok\r\n25', hangUp] },
    ends: 'unknown connection_lost, sent',
    copies: 2,
  },
  {
    does: 'begins a code and hangs up',
    acts: { dot: [keep, '25', hangUp] },
    ends: 'unknown connection_lost, sent',
    copies: 2,
  },
  { does: 'hangs up after its 250', acts: { dot: [keep, '250 Ok\r\n', hangUp] }, ends: 'sent', copies: 1 },
  { does: 'resets after its 250', acts: { dot: [keep, '250 Ok\r\n', resetSoon] }, ends: 'sent', copies: 1 },
]

export const ODD: readonly Misdeed[] = [
  {
    does: 'refuses every RCPT for now',
    acts: { rcpt: ['451 4.3.0 Not now\r\n'] },
    always: true,
    ends: `${'deferred smtp_deferred, '.repeat(ATTEMPTS - 1)}dead smtp_deferred`,
    copies: 0,
  },
  {
    does: 'takes one recipient and puts off the other',
    acts: { 'second rcpt': ['451 4.3.0 Not now\r\n'] },
    ends: 'recipient_sent, deferred smtp_deferred, sent',
    copies: 1,
    secondCopies: 1,
  },
  {
    does: 'takes one recipient and refuses the other',
    acts: { 'second rcpt': ['550 5.1.1 No such user\r\n'] },
    ends: 'recipient_refused bad_recipient, sent',
    copies: 1,
    secondCopies: 0,
  },
  {
    does: 'grey-lists and names a time',
    acts: { rcpt: ['450 4.2.0 Greylisted, try again in 3 seconds\r\n'] },
    ends: 'deferred smtp_deferred, sent',
    copies: 1,
    waitsS: 3,
  },
  {
    does: 'answers DATA with 250',
    acts: { data: ['250 Ok\r\n'] },
    ends: 'unreachable protocol_error, sent',
    copies: 1,
  },
  {
    does: 'answers the dot before the content, and refuses it then',
    acts: { data: ['354 Go ahead\r\n250 Ok\r\n', takeContent], dot: ['554 5.6.0 Malformed\r\n'] },
    ends: 'unreachable protocol_error, sent',
    copies: 1,
  },
  {
    does: 'answers MAIL twice',
    acts: { mail: ['250 2.1.0 Ok\r\n250 2.1.0 Ok\r\n'] },
    ends: 'unreachable protocol_error, sent',
    copies: 1,
  },
  { does: 'answers the dot twice', acts: { dot: [keep, '250 Ok\r\n250 Ok\r\n'] }, ends: 'sent', copies: 1 },
  { does: 'answers the dot with a bare 250', acts: { dot: [keep, '250\r\n'] }, ends: 'sent', copies: 1 },
  {
    does: 'accepts in several lines and pieces',
    acts: { rcpt: ['250-2.1.5 Ok\r\n25', '0 Ok\r\n'], dot: [keep, '250-2.0.0 Ok\r\n250', ' Queued\r\n'] },
    ends: 'sent',
    copies: 1,
  },
  {
    does: 'refuses in words that are not UTF-8, with control characters',
    acts: { rcpt: ['550 5.1.1 Caf\xe9\x00\x1b[31m \xed\xa0\x80 gone\r\n'] },
    ends: 'recipient_refused bad_recipient, dead bad_recipient',
    copies: 0,
  },
  {
    does: 'refuses in a line of 60,000 characters',
    acts: { rcpt: [`550 5.1.1 ${'gone '.repeat(12_000)}\r\n`] },
    ends: 'recipient_refused bad_recipient, dead bad_recipient',
    copies: 0,
  },
  {
    does: 'refuses in several lines',
    acts: { rcpt: ['550-5.1.1 There is\r\n550-5.1.1 no such\r\n550 5.1.1 user\r\n'] },
    ends: 'recipient_refused bad_recipient, dead bad_recipient',
    copies: 0,
  },
  { does: 'reads slowly', acts: { content: [readSlowly] }, mail: LONG_LETTER, ends: 'sent', copies: 1 },
]

export const SILENCE: readonly Misdeed[] = [
  ...(['mail', 'rcpt', 'data'] as const).map((at) => ({
    does: `never answers ${at}`,
    acts: { [at]: [] },
    ends: 'unreachable timed_out, sent',
    copies: 1,
  })),
  { does: 'never answers the dot', acts: { dot: [keep] }, ends: 'unknown timed_out, sent', copies: 2 },
  {
    does: 'never answers any dot',
    acts: { dot: [keep] },
    always: true,
    ends: `${'unknown timed_out, '.repeat(ATTEMPTS - 1)}dead timed_out`,
    copies: ATTEMPTS,
  },
  {
    does: 'begins a code and falls silent',
    acts: { dot: [keep, '25'] },
    ends: 'unknown timed_out, sent',
    copies: 2,
  },
  {
    does: 'reads a byte a second',
    acts: { content: [readByteByByte] },
    mail: LONG_LETTER,
    ends: 'unknown timed_out, sent',
    copies: 1,
  },
]

/** Their stream holds what nobody can know. */
export const HELD: readonly Misdeed[] = [
  { does: 'never answers the dot', acts: { dot: [keep] }, ends: 'unknown timed_out', copies: 1 },
  {
    does: 'trickles its answer to the dot',
    acts: { dot: [keep, trickle] },
    ends: 'unknown timed_out',
    copies: 1,
  },
  { does: 'resets in the content', acts: { content: [reset] }, ends: 'unknown connection_lost', copies: 0 },
  {
    does: 'hangs up after the dot',
    acts: { dot: [keep, hangUp] },
    ends: 'unknown connection_lost',
    copies: 1,
  },
  {
    does: 'answers the dot with 354',
    acts: { dot: [keep, '354 More\r\n'] },
    ends: 'unknown protocol_error',
    copies: 1,
  },
  { does: 'resets after its 250', acts: { dot: [keep, '250 Ok\r\n', resetSoon] }, ends: 'sent', copies: 1 },
]

export const THROTTLING: readonly Misdeed[] = [
  {
    does: 'throttles and names a time',
    acts: { rcpt: ['451 4.7.1 Rate limit exceeded, try again in 3 seconds\r\n'] },
    ends: 'unreachable throttled, sent',
    copies: 1,
    waitsS: 3,
  },
  {
    does: 'throttles after the dot',
    acts: { dot: ['454 Throttling failure: Maximum sending rate exceeded\r\n'] },
    ends: 'unreachable throttled, sent',
    copies: 1,
    waitsS: 1,
    atMost: 20,
  },
]
