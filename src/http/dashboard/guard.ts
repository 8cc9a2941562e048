import { createMiddleware } from 'hono/factory'
import { html } from 'hono/html'
import { isSameSecret } from '../../same-secret.ts'
import { dropSession, isFromOwnPage, sessionTokenOf } from './cookie.ts'
import { type DashboardEnv, type PageContext, show } from './frame.ts'
import type { Sessions } from './session.ts'

export type GuardDeps = {
  readonly sessions: Sessions
  readonly publicUrl: string | undefined
  readonly hasInbox: boolean
}

const AROUND = ["frame-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"]

/** Pages load from here alone and run nothing but files of ours; no frame may hold them. */
const PAGE_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  ...AROUND,
].join('; ')

/**
 * Of the one page with a frame whose source it holds, which has the policy of its page (HTML: policy containers): styles and
 * pictures that a mail brings with it may be seen, and no script runs on the page at all.
 */
export const PREVIEW_POLICY = [
  "default-src 'none'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  ...AROUND,
].join('; ')

export function preparePage({ hasInbox }: GuardDeps) {
  return createMiddleware<DashboardEnv>(async function preparePage(c, next) {
    c.header('Content-Security-Policy', PAGE_POLICY)
    c.header('X-Content-Type-Options', 'nosniff')
    c.header('Cache-Control', 'no-store')
    c.header('Cross-Origin-Resource-Policy', 'same-origin')
    c.header('Cross-Origin-Opener-Policy', 'same-origin')
    // Not no-referrer: with it a browser posts our own forms with `Origin: null`.
    c.header('Referrer-Policy', 'same-origin')
    c.set('hasInbox', hasInbox)
    await next()
  })
}

/** For whoever is signed in: others are shown where to, and what they posted is not done. */
export function requireSession({ sessions, publicUrl }: GuardDeps) {
  return createMiddleware<DashboardEnv>(async function requireSession(c, next) {
    const token = sessionTokenOf(c)
    const session = token === '' ? undefined : await sessions.read(token)
    if (session !== undefined) {
      c.set('session', session)
      c.set('caller', session.caller)
      await next()
      return undefined
    }
    if (token !== '') dropSession(c, publicUrl)
    if (c.req.method === 'GET' || c.req.method === 'HEAD') return c.redirect(signInPath(c), 303)
    return show(c, {
      title: 'You are not signed in',
      status: 403,
      body: html`<p>Your session has ended, so nothing was done.</p><p><a href="/login">Sign in</a> and repeat it.</p>`,
    })
  })
}

/** Back to the page that was asked for. */
function signInPath(c: PageContext): string {
  const { pathname, search } = new URL(c.req.url)
  return pathname === '/' ? '/login' : `/login?${new URLSearchParams({ next: `${pathname}${search}` })}`
}

/** Of every POST: the form comes from a page of this session, or nothing is done. */
export function requireOwnForm({ publicUrl }: GuardDeps) {
  return createMiddleware<DashboardEnv>(async function requireOwnForm(c, next) {
    if (c.req.method !== 'POST') {
      await next()
      return undefined
    }
    const form = await readForm(c)
    const isOwn = isSameSecret(form.get('form_token') ?? '', c.get('session').formToken)
    if (!isOwn || !isFromOwnPage(c, publicUrl)) return showStale(c)
    c.set('form', form)
    await next()
    return undefined
  })
}

export function showStale(c: PageContext): Response | Promise<Response> {
  return show(c, {
    title: 'This page is old',
    status: 403,
    body: html`<p>It was opened before you signed in last, or it is not a page of this dashboard. Nothing was done.</p>
      <p>Load the page again and repeat what you wanted to do, or begin at the <a href="/">overview</a>.</p>`,
  })
}

/** Fields of `application/x-www-form-urlencoded`; none of anything else. */
export async function readForm(c: PageContext): Promise<URLSearchParams> {
  const isForm = /^application\/x-www-form-urlencoded\b/i.test(c.req.header('Content-Type') ?? '')
  return new URLSearchParams(isForm ? await c.req.text() : '')
}
