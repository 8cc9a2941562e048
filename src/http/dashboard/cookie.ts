import type { Context } from 'hono'
import { deleteCookie, getCookie, setCookie } from 'hono/cookie'
import { SESSION_S } from './session.ts'

const NAME = 'sluice_session'

/**
 * Not readable by scripts, and sent by no page of another site. `Secure` wherever the browser speaks https, be it to a
 * proxy in front of us: over a tunnel to plain http a browser would not keep such a cookie.
 */
export function keepSession(c: Context, token: string, publicUrl: string | undefined): void {
  setCookie(c, NAME, token, { ...settings(c, publicUrl), maxAge: SESSION_S })
}

export function dropSession(c: Context, publicUrl: string | undefined): void {
  deleteCookie(c, NAME, settings(c, publicUrl))
}

export function sessionTokenOf(c: Context): string {
  return getCookie(c, NAME) ?? ''
}

function settings(c: Context, publicUrl: string | undefined) {
  return { path: '/', httpOnly: true, sameSite: 'Strict', secure: isHttps(c, publicUrl) } as const
}

function isHttps(c: Context, publicUrl: string | undefined): boolean {
  if (new URL(c.req.url).protocol === 'https:' || c.req.header('x-forwarded-proto') === 'https') return true
  const known = publicUrl === undefined ? null : URL.parse(publicUrl)
  return known?.protocol === 'https:' && known.host === c.req.header('host')
}

/**
 * Whether one of our own pages sent this. The browser says so itself (Fetch Metadata); where it does not, over plain
 * http, the origin has to be the host that was asked, or the public one if a proxy calls us by another name.
 */
export function isFromOwnPage(c: Context, publicUrl: string | undefined): boolean {
  const site = c.req.header('sec-fetch-site')
  if (site !== undefined) return site === 'same-origin'
  const origin = URL.parse(c.req.header('origin') ?? '')
  if (origin === null) return false
  const hosts = [c.req.header('host'), publicUrl === undefined ? undefined : URL.parse(publicUrl)?.host]
  return hosts.includes(origin.host)
}
