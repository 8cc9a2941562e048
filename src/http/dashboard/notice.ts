import { html } from 'hono/html'
import { isSameSecret } from '../../same-secret.ts'
import type { Html, PageContext } from './frame.ts'
import type { Session } from './session.ts'

/**
 * What an action came to, shown on the page that its form leads to. It travels in the address, so that loading the page
 * again repeats nothing, and is signed, so that nobody can make up a link that says so.
 */

export type Notice = { readonly tone: 'done' | 'nothing' | 'failed'; readonly text: string }

const TONES = { done: 'Done', nothing: 'Nothing to do', failed: 'Not done' } as const
const MAX_NOTICE_CHARS = 600

/** POST, redirect, GET (RFC 9110 section 15.4.4). */
export function redirectWith(c: PageContext, path: string, notice: Notice): Response {
  const session = c.get('session')
  const text = `${notice.tone} ${notice.text.slice(0, MAX_NOTICE_CHARS).toWellFormed()}`
  const target = new URL(path, 'http://dashboard')
  target.searchParams.set('notice', text)
  target.searchParams.set('proof', session.sign(`notice ${text}`))
  return c.redirect(`${target.pathname}${target.search}`, 303)
}

export function noticeIn(c: PageContext, session: Session): Html | string {
  const text = c.req.query('notice') ?? ''
  if (text === '' || !isSameSecret(c.req.query('proof') ?? '', session.sign(`notice ${text}`))) return ''
  const [, tone = 'done', said = ''] = /^(\w+) (.*)$/s.exec(text) ?? []
  const word = TONES[tone as keyof typeof TONES]
  return html`<p class="notice ${tone}" role="status"><strong>${word}:</strong> ${said}</p>`
}
