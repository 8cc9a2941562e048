import { createMiddleware } from 'hono/factory'

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

/** Before whatever answers, which may say something else: once there is an answer, each header would cost another one. */
export const addSecurityHeaders = createMiddleware(async function addSecurityHeaders(c, next) {
  for (const [name, value] of HEADERS) c.header(name, value)
  await next()
})

const HEADERS = Object.entries(SECURITY_HEADERS)
