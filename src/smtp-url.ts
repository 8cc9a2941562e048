import { isLoopback } from './network/loopback.ts'

/**
 * Upper limits. Once it has its turn, a send ends within `connectMs + 2 * greetingMs + 2 * socketMs`, and within another
 * `2 * socketMs` when it first tried a connection that turned out to be lost; a large one has its time to upload besides.
 */
export type SmtpTimeouts = {
  /** From the DNS lookup to the end of STARTTLS. */
  readonly connectMs: number
  /** For the greeting and for a STARTTLS handshake, within `connectMs`; then for EHLO, and again for authentication. */
  readonly greetingMs: number
  /** Silence of the server while a reply is due. The dialogue of one message may take twice as long in all. */
  readonly socketMs: number
}

const DEFAULT_TIMEOUTS: SmtpTimeouts = { connectMs: 10_000, greetingMs: 10_000, socketMs: 60_000 }
/** RFC 5321 section 4.5.3.2.6 lets a server think for ten minutes after the final dot. */
const MAX_TIMEOUT_S = 600
const PARAMETERS = ['tls', 'tls_verify', 'connect_timeout_s', 'greeting_timeout_s', 'socket_timeout_s']

/** A relay, as `parseSmtpUrl` reads it. */
export type SmtpTarget = {
  readonly host: string
  readonly port: number
  readonly secure: boolean
  readonly tls: 'opportunistic' | 'required' | 'none'
  readonly verify: boolean
  readonly timeouts: SmtpTimeouts
  readonly auth?: { readonly user: string; readonly pass: string }
}

/**
 * Reads `smtp(s)://user:pass@host:port?tls=...&tls_verify=...`. User and password are percent-encoded.
 *
 * - `smtps://` speaks TLS from the first byte (port 465); `smtp://` starts in the clear (port 587).
 * - `tls=required` (the default) sends nothing without STARTTLS. `tls=opportunistic` (the default for a relay on this
 *   machine) uses it where it is offered, which whoever sits in between can prevent, and never sends a password without
 *   it. `tls=none` never uses it, and sends even the password in the clear.
 * - `tls_verify=false` accepts any certificate.
 * - `connect_timeout_s` (10), `greeting_timeout_s` (10) and `socket_timeout_s` (60) are seconds above 0, up to 600. With
 *   shorter ones a relay that hangs gives its slots back sooner; but when the answer to the whole message comes later
 *   than `socket_timeout_s`, nobody knows whether it was taken, and the stream's `on_unknown` may send it twice.
 *
 * @throws Error that says what is wrong, without the password
 */
export function parseSmtpUrl(text: string): SmtpTarget {
  const url = URL.parse(text)
  if (url === null || !['smtp:', 'smtps:'].includes(url.protocol) || url.hostname === '') {
    throw new Error(
      'The SMTP URL must look like smtp://user:password@host:587, with special characters percent-encoded',
    )
  }
  const secure = url.protocol === 'smtps:'
  const host = decoded(url.hostname).replace(/^\[(.*)\]$/, '$1')
  const tls = url.searchParams.get('tls') ?? (secure || !isLoopback(host) ? 'required' : 'opportunistic')
  if (tls !== 'opportunistic' && tls !== 'required' && tls !== 'none') {
    throw new Error('The SMTP URL parameter `tls` must be opportunistic, required or none')
  }
  if (secure && tls !== 'required')
    throw new Error('An smtps:// URL always uses TLS: remove `tls` or use smtp://')
  const verify = url.searchParams.get('tls_verify') ?? 'true'
  if (verify !== 'true' && verify !== 'false') {
    throw new Error('The SMTP URL parameter `tls_verify` must be true or false')
  }
  if ([...url.searchParams.keys()].some((name) => !PARAMETERS.includes(name))) {
    // Without its name: behind a `?` that belongs to the password it is the rest of that.
    throw new Error(
      `The SMTP URL has a parameter that is not known; use ${PARAMETERS.join(', ')}, and write a \`?\` in a password as %3F`,
    )
  }
  const auth =
    url.username === '' ? {} : { auth: { user: decoded(url.username), pass: decoded(url.password) } }
  return {
    host,
    port: Number(url.port) || (secure ? 465 : 587),
    secure,
    tls,
    verify: verify === 'true',
    timeouts: {
      connectMs: readTimeoutMs(url, 'connect_timeout_s', DEFAULT_TIMEOUTS.connectMs),
      greetingMs: readTimeoutMs(url, 'greeting_timeout_s', DEFAULT_TIMEOUTS.greetingMs),
      socketMs: readTimeoutMs(url, 'socket_timeout_s', DEFAULT_TIMEOUTS.socketMs),
    },
    ...auth,
  }
}

function readTimeoutMs(url: URL, name: string, defaultMs: number): number {
  const text = url.searchParams.get(name)
  if (text === null) return defaultMs
  const ms = /^\d{1,3}(?:\.\d{1,3})?$/.test(text) ? Math.round(Number(text) * 1_000) : 0
  if (ms === 0 || ms > MAX_TIMEOUT_S * 1_000) {
    throw new Error(
      `The SMTP URL parameter \`${name}\` must be seconds above 0, at most ${MAX_TIMEOUT_S}, such as 30 or 2.5`,
    )
  }
  return ms
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch (cause) {
    throw new Error(
      'The SMTP URL has a `%` that is not part of a percent-encoded character; write it as %25',
      { cause },
    )
  }
}
