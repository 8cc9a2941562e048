import type { ServerResponse } from 'node:http'

/**
 * On every answer that does not say something else itself: nobody keeps it, guesses its type, frames it, is told where it
 * came from, or loads it into a page of another site. There are no `Access-Control-*` headers, on purpose: a key in a
 * page would be everybody's who reads the page. Strict-Transport-Security is for whoever has the certificate to say.
 */
export const SECURITY_HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
} as const

const HEADERS = Object.entries(SECURITY_HEADERS)

/** To node itself, before whatever answers: what an answer says of a header goes before this. */
export function setSecurityHeaders(outgoing: ServerResponse): void {
  for (const [name, value] of HEADERS) outgoing.setHeader(name, value)
}
