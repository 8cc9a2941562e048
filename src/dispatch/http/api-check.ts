import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import { request as tlsRequest } from 'node:https'
import { text } from 'node:stream/consumers'
import { type PeerCertificate, TLSSocket } from 'node:tls'
import type { UnreachableCode } from '../transport.ts'

/** How a provider is asked, without sending anything, whether it would take our mail. */
export type ApiCheck = {
  /** A GET below the base URL. */
  request(): CheckRequest | Promise<CheckRequest>
  read(answer: CheckAnswer): CheckResult
}

export type CheckRequest = { readonly path: string; readonly headers: Readonly<Record<string, string>> }
export type CheckAnswer = {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

export type CheckResult = {
  /** `unclear`: the credentials may be good for sending and are not good for asking. */
  readonly verdict: 'usable' | 'unclear' | 'refused'
  /** Our own words: an answer may repeat what it was asked with. */
  readonly words: string
}

/** An answer that its documentation does not foresee. */
export function unreadable(status: number): CheckResult {
  return { verdict: 'unclear', words: `it answered ${status}, which says nothing about the credentials` }
}

export type Certificate = { readonly name: string; readonly expiresAt: Date }

export type Checked =
  | {
      readonly kind: 'answered'
      readonly result: CheckResult
      readonly certificate: Certificate | undefined
    }
  | { readonly kind: 'unreachable'; readonly code: UnreachableCode; readonly reason: string }

const MAX_HEADER_BYTES = 16 * 1_024

/** Looks the host up, connects, proves its certificate, and asks. Never rejects. */
export async function checkApi(check: ApiCheck, baseUrl: URL, signal: AbortSignal): Promise<Checked> {
  try {
    const { path, headers } = await check.request()
    const { answer, certificate } = await get(baseUrl, path, headers, signal)
    const body = (await text(answer)).slice(0, 64 * 1_024)
    const { statusCode: status = 0, headers: given } = answer
    return { kind: 'answered', certificate, result: check.read({ status, headers: given, body }) }
  } catch (error) {
    return { kind: 'unreachable', ...faultOf(error, signal) }
  }
}

function get(
  baseUrl: URL,
  path: string,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<{ answer: IncomingMessage; certificate: Certificate | undefined }> {
  return new Promise((resolve, reject) => {
    const url = new URL(baseUrl.pathname.replace(/\/$/, '') + path, baseUrl)
    const send = url.protocol === 'https:' ? tlsRequest : request
    const asking = send(url, {
      agent: false,
      signal,
      headers: { 'user-agent': 'Sluice', accept: 'application/json', ...headers },
      maxHeaderSize: MAX_HEADER_BYTES,
    })
    asking.once('error', reject)
    asking.once('response', (answer) =>
      resolve({
        answer,
        certificate: answer.socket instanceof TLSSocket ? certificateOf(answer.socket) : undefined,
      }),
    )
    asking.end()
  })
}

/** Undefined when the other side showed none. */
export function certificateOf(socket: TLSSocket): Certificate | undefined {
  // Null once the socket is closed, an empty object when there was none.
  const shown = socket.getPeerCertificate() as Partial<PeerCertificate> | null
  if (shown?.valid_to === undefined) return undefined
  const { subject, subjectaltname, valid_to } = shown
  const [first = ''] = (subjectaltname ?? '').split(', ')
  const commonName = Array.isArray(subject?.CN) ? subject.CN[0] : subject?.CN
  return { name: commonName ?? first.replace(/^\w+:/, ''), expiresAt: new Date(valid_to) }
}

const DNS_CODES = new Set(['ENOTFOUND', 'EAI_AGAIN', 'ENODATA'])
const CONNECT_CODES = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EADDRNOTAVAIL', 'ETIMEDOUT'])

function faultOf(error: unknown, signal: AbortSignal): { code: UnreachableCode; reason: string } {
  const reason = error instanceof Error ? error.message : String(error)
  if (signal.aborted) return { code: 'timed_out', reason: 'no answer in time' }
  const code = (error as { code?: unknown }).code
  if (typeof code !== 'string') return { code: 'protocol_error', reason }
  if (DNS_CODES.has(code)) return { code: 'dns_failed', reason }
  if (CONNECT_CODES.has(code)) return { code: 'connect_failed', reason }
  if (code === 'ECONNRESET' || code === 'EPIPE') return { code: 'connection_lost', reason }
  // What is left of the codes that come before an answer is said of certificates and of TLS itself.
  return { code: /^(?:HPE|ERR_HTTP)_/.test(code) ? 'protocol_error' : 'tls_failed', reason }
}
