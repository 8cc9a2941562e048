import { createSecureContext } from 'node:tls'
import {
  ENDLESS,
  hangUp,
  LONG_LINE,
  nonsenseWhenAsked,
  reset,
  resetSoon,
  resetWhenAsked,
  trickle,
} from './acts.ts'
import type { Acts } from './hostile-relay.ts'
import type { Misdeed } from './misdeed.ts'

/** What relays do to connections, whatever these come for. */

/** Signed by itself, for 127.0.0.1, and trusted by nobody; its key is no secret. */
const NOBODYS = createSecureContext({
  cert: `-----BEGIN CERTIFICATE-----
MIIBijCCATCgAwIBAgIUDpOI3biruNDojDH+EqP/j1Q6BpwwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMjA0MDUyMVoYDzIxMjYxMDI5MDQw
NTIxWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AATy3S9XVVm4QA8SPw/tofAkmS7TOgWySNFmxO/OkXRH5pj4CGF3Gpd+VDJsRRl2
T2+Q0NpVDSBHPT1w8qy/qtUho2QwYjAdBgNVHQ4EFgQUGt/6FJH5Nj2MAu8xWf7k
q5ce/pQwHwYDVR0jBBgwFoAUGt/6FJH5Nj2MAu8xWf7kq5ce/pQwDwYDVR0TAQH/
BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0gAMEUCIFS7TiUx
1VdqqWUh/djqq+qEllgddin7dqAhiiPyJQ8fAiEA9u9AacQ7UaBRNUi6TBEQmK+t
WChd0lg5hsFdq+9fPGE=
-----END CERTIFICATE-----
`,
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgIi7P7Vplx100YX2u
2eRxN0gWrBUq9fjz8RfYg7USIiyhRANCAATy3S9XVVm4QA8SPw/tofAkmS7TOgWy
SNFmxO/OkXRH5pj4CGF3Gpd+VDJsRRl2T2+Q0NpVDSBHPT1w8qy/qtUh
-----END PRIVATE KEY-----
`,
})

/** Each ends with the connection, or without any answer. */
export const OPENING: readonly Misdeed[] = (
  [
    ['never greets', { connect: [] }, 'timed_out'],
    ['never answers EHLO', { ehlo: [] }, 'timed_out'],
    ['begins a code and falls silent', { connect: ['22'] }, 'timed_out'],
    ['trickles its greeting', { connect: [trickle] }, 'timed_out'],
    ['hangs up without a word', { connect: [hangUp] }, 'connection_lost'],
    ['resets without a word', { connect: [reset] }, 'connection_lost'],
    ['resets after the banner', { connect: ['220 raw.test ESMTP\r\n', resetSoon] }, 'connection_lost'],
    ['begins a code and hangs up', { connect: ['22', hangUp] }, 'connection_lost'],
    ['hangs up at EHLO', { ehlo: [hangUp] }, 'connection_lost'],
    ['resets at EHLO', { ehlo: [reset] }, 'connection_lost'],
    ['greets with 421', { connect: ['421 4.3.2 Shutting down\r\n', hangUp] }, 'service_unavailable'],
    ['greets with 450', { connect: ['450 Not now\r\n', hangUp] }, 'service_unavailable'],
    ['greets with 554', { connect: ['554 No mail here\r\n', hangUp] }, 'service_unavailable'],
    ['answers EHLO with 421', { ehlo: ['421 4.3.2 Shutting down\r\n', hangUp] }, 'service_unavailable'],
    [
      'answers EHLO and HELO with 451',
      { ehlo: ['451 Not now\r\n'], helo: ['451 Not now\r\n'] },
      'service_unavailable',
    ],
    [
      'answers EHLO and HELO with 550',
      { ehlo: ['550 Not you\r\n'], helo: ['550 Not you\r\n'] },
      'service_unavailable',
    ],
    ['greets with 120', { connect: ['120 In a moment\r\n'] }, 'protocol_error'],
    ['greets with 354', { connect: ['354 Go ahead\r\n'] }, 'protocol_error'],
    ['greets with garbage', { connect: ['\x00\xff\xfe what\r\n'] }, 'protocol_error'],
    ['greets with an endless line', { connect: ['2'.repeat(200_000)] }, 'protocol_error'],
    ['greets with endless lines', { connect: [ENDLESS('220')] }, 'protocol_error'],
    ['answers EHLO with an endless line', { ehlo: [`250-${LONG_LINE}`] }, 'protocol_error'],
    ['answers EHLO with endless lines', { ehlo: [ENDLESS('250')] }, 'protocol_error'],
  ] as const
).map(([does, acts, code]) => aboutConnection(does, acts, code))

/** Odd, but mail goes out. */
export const FRIENDLY: readonly Misdeed[] = [
  aboutConnection('knows HELO only', { ehlo: ['502 5.5.1 Unknown\r\n'] }),
  aboutConnection('answers EHLO with garbage', { ehlo: ['what?\r\n'] }),
  aboutConnection('greets in many lines', {
    connect: [`${'220-hello\r\n'.repeat(100)}22`, '0 done\r\n'],
  }),
]

/** With TLS, and the user `user` whose password is `passport`. */
export const LOGIN: readonly Misdeed[] = [
  aboutConnection('refuses the password', { auth: ['535 5.7.8 No\r\n', hangUp] }, 'auth_failed'),
  aboutConnection(
    'repeats the password when it refuses it',
    { auth: ['535 5.7.8 No: AUTH PLAIN AHVzZXIAcGFzc3BvcnQ= (user, passport)\r\n', hangUp] },
    'auth_failed',
  ),
  aboutConnection('answers AUTH with 421', { auth: ['421 4.3.2 Bye\r\n', hangUp] }, 'service_unavailable'),
  aboutConnection('answers AUTH with garbage', { auth: ['\xff\xfe\r\n'] }, 'auth_failed'),
  aboutConnection('hangs up at AUTH', { auth: [hangUp] }, 'connection_lost'),
  aboutConnection('never answers AUTH', { auth: [] }, 'timed_out'),
  aboutConnection(
    'offers no AUTH',
    { 'secure ehlo': ['250-raw.test\r\n250 8BITMIME\r\n'] },
    'auth_unavailable',
  ),
  {
    ...aboutConnection(
      'throttles logins',
      { auth: ['454 4.7.0 Too many login attempts\r\n', hangUp] },
      'throttled',
    ),
    atMost: 1,
  },
]

export const TLS: readonly Misdeed[] = [
  aboutConnection(
    'offers no STARTTLS',
    { ehlo: ['250-raw.test\r\n250 8BITMIME\r\n'], starttls: ['502 5.5.1 Unknown\r\n'] },
    'tls_failed',
  ),
  aboutConnection('has no TLS just now', { starttls: ['454 4.7.0 Not available\r\n'] }, 'tls_failed'),
  aboutConnection(
    'speaks no TLS after STARTTLS',
    { starttls: ['220 Go\r\n', nonsenseWhenAsked] },
    'tls_failed',
  ),
  aboutConnection('hangs up in the handshake', { starttls: ['220 Go\r\n', hangUp] }, 'tls_failed'),
  aboutConnection('resets in the handshake', { starttls: ['220 Go\r\n', resetWhenAsked] }, 'tls_failed'),
  aboutConnection('falls silent in the handshake', { starttls: ['220 Go\r\n'] }, 'timed_out'),
  aboutConnection(
    'has a certificate that nobody trusts',
    { starttls: ['220 Go\r\n', (talk) => talk.encrypt(NOBODYS)] },
    'tls_failed',
  ),
  aboutConnection('slips in an answer before the handshake', {
    starttls: ['220 Go\r\n250-raw.test\r\n250 SIZE 1\r\n', (talk) => talk.encrypt()],
  }),
]

function aboutConnection(does: string, acts: Acts, code?: string): Misdeed {
  const ends = code === undefined ? 'sent' : `unreachable ${code}, sent`
  return { does, acts, isOfConnection: true, ends, copies: 1 }
}
