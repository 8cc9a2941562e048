import { html, raw } from 'hono/html'
import type { InboxEntry, InboxPage } from '../inbox/queries.ts'
import { INBOX_STYLE } from './inbox-style.ts'

/** Where the inbox is mounted; its pages link to each other by whole paths. */
export const INBOX_PATH = '/inbox'

export type Html = ReturnType<typeof html>

const REFRESH_EVERY_S = 5
const FULL_TIME = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' })
/** A list has no room for the year. */
const SHORT_TIME = new Intl.DateTimeFormat('en-GB', {
  day: 'numeric',
  month: 'short',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
})

export function layout(page: { title: string; refreshEveryS?: number; top: Html; body: Html }): Html {
  return html`<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    ${page.refreshEveryS === undefined ? '' : html`<meta http-equiv="refresh" content="${page.refreshEveryS}">`}
    <title>${page.title}</title>
    <style>${raw(INBOX_STYLE)}</style>
  </head>
  <body>
    <header>
      <h1><a href="${INBOX_PATH}">Sluice inbox</a></h1>
      ${page.top}
    </header>
    <main>${page.body}</main>
  </body>
</html>`
}

export type ListView = {
  readonly page: InboxPage
  readonly total: number
  readonly search: string
  readonly live: boolean
  /** The list begins below the newest mail. */
  readonly isOlderPage: boolean
}

export function listPage(view: ListView): Html {
  return layout({
    title: view.total === 0 ? 'Inbox' : `Inbox (${view.total})`,
    ...(view.live ? { refreshEveryS: REFRESH_EVERY_S } : {}),
    top: listTools(view),
    body: html`
      <div class="card">
        ${
          view.page.entries.length === 0
            ? emptyList(view)
            : html`<ul class="mails">${view.page.entries.map(listEntry)}</ul>`
        }
      </div>
      ${pageLinks(view)}`,
  })
}

function listTools({ total, search, live }: ListView): Html {
  return html`
    <span class="count">${total === 1 ? '1 mail' : `${total} mails`}</span>
    <form action="${INBOX_PATH}" role="search">
      <input type="search" name="q" value="${search}" maxlength="200" placeholder="Subject, address or id"
        aria-label="Search the inbox">
      ${live ? html`<input type="hidden" name="live" value="1">` : ''}
    </form>
    ${
      live
        ? html`<a class="button live" href="${listPath({ search })}" title="Stop refreshing">Live</a>`
        : html`<a class="button" href="${listPath({ search, live: true })}"
            title="Load this page again every ${REFRESH_EVERY_S} seconds">Go live</a>`
    }
    ${
      total === 0
        ? ''
        : html`<details class="clear">
            <summary>Clear</summary>
            <form method="post" action="${INBOX_PATH}/clear">
              <button class="danger">Delete all mail</button>
            </form>
          </details>`
    }`
}

/** The inbox stands for the provider, who gets to see it: outside of development nobody reads it here. */
export const SENSITIVE_MARK = html`<span class="more" title="Encrypted wherever else it is stored">sensitive</span>`

function listEntry(entry: InboxEntry): Html {
  const others = entry.recipients.length - 1
  return html`
    <li><a href="${INBOX_PATH}/${entry.id}">
      <span class="subject" dir="auto">${entry.subject ?? '(no subject)'}</span>
      <span class="to" dir="auto">${entry.recipients[0] ?? ''}</span>
      <span class="from" dir="auto">from ${entry.sender ?? envelopeSender(entry)}</span>
      ${entry.is_sensitive ? SENSITIVE_MARK : ''}
      ${others > 0 ? html`<span class="more">and ${others} more</span>` : ''}
      <time datetime="${entry.received_at.toISOString()}">${SHORT_TIME.format(entry.received_at)}</time>
      <span class="size">${formatBytes(entry.size_bytes)}</span>
    </a></li>`
}

function emptyList({ search, isOlderPage }: ListView): Html {
  if (search !== '')
    return html`<p class="empty"><strong>Nothing found</strong>No mail here matches this search.</p>`
  if (isOlderPage)
    return html`<p class="empty"><strong>Nothing older</strong>Older mail has made room for newer.</p>`
  return html`<p class="empty"><strong>No mail yet</strong>What the service sends appears here and goes nowhere else.</p>`
}

function pageLinks({ page, search, isOlderPage }: ListView): Html {
  return html`<div class="pages">
    ${isOlderPage ? html`<a class="button" href="${listPath({ search })}">Newest</a>` : ''}
    ${
      page.olderThanId === undefined
        ? ''
        : html`<a class="button" href="${listPath({ search, before: page.olderThanId })}">Older</a>`
    }
  </div>`
}

function listPath(query: { search: string; live?: boolean; before?: string }): string {
  const parameters = new URLSearchParams()
  if (query.search !== '') parameters.set('q', query.search)
  if (query.live) parameters.set('live', '1')
  if (query.before !== undefined) parameters.set('before', query.before)
  return parameters.size === 0 ? INBOX_PATH : `${INBOX_PATH}?${parameters}`
}

export function missingPage(what: string): Html {
  return layout({
    title: 'Not found',
    top: html``,
    body: html`<div class="card"><p class="empty">
      <strong>${what} is not here</strong>It may have been deleted: only the newest mail is kept.
    </p></div>`,
  })
}

export function envelopeSender(entry: InboxEntry): string {
  return entry.mail_from === '' ? '<> (a bounce or notification)' : entry.mail_from
}

export function fullTime(at: Date): Html {
  return html`<time datetime="${at.toISOString()}">${FULL_TIME.format(at)}</time>`
}

export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KB`
  return `${(bytes / 1024 / 1024).toFixed(1)} MB`
}
