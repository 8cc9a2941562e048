/**
 * The local inbox in a browser, for development: mail the SMTP sink stored, as a list and one by one. What
 * the mails hold is hostile: text is escaped, HTML lives in a sandboxed frame that loads nothing, files are
 * only ever downloaded. Nothing here runs a script, so every page works with scripts switched off.
 */
import { getConnInfo } from '@hono/node-server/conninfo'
import { type Context, Hono, type MiddlewareHandler } from 'hono'
import type { GetConnInfo } from 'hono/conninfo'
import type { Database } from '../db/pool.ts'
import { clearInbox, countInbox, type InboxMail, listInbox, readInboxMail } from '../inbox/queries.ts'
import { toSingleLine } from '../inbox/summary.ts'
import { localOnly } from './inbox-guard.ts'
import { decodeMail } from './inbox-mail.ts'
import { MAIL_VIEWS, mailPage } from './inbox-mail-page.ts'
import { INBOX_PATH, listPage, missingPage } from './inbox-pages.ts'
import { INBOX_PAGE_POLICY } from './inbox-style.ts'
import { MAIL_HTML_POLICY } from './mail-html.ts'

export type InboxRoutesDeps = {
  readonly db: Database
  /** Who is asking; tests say it themselves. */
  readonly getConnInfo?: GetConnInfo
}

const PAGE_SIZE = 50
const MAX_SEARCH_CHARS = 200

/** Eighteen digits always fit a bigint. */
const ID = ':id{[1-9][0-9]{0,17}}'
const ID_PATTERN = /^[1-9][0-9]{0,17}$/

const BARE_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"

/** The inbox's pages, to be mounted at `/inbox`. */
export function inboxRoutes(deps: InboxRoutesDeps): Hono {
  const routes = new Hono()
  routes.use(localOnly(deps.getConnInfo ?? getConnInfo), pageHeaders)
  addListRoutes(routes, deps.db)
  addMailRoutes(routes, deps.db)
  return routes
}

function addListRoutes(routes: Hono, db: Database): void {
  routes.get('/', async (c) => {
    const search = toSingleLine(c.req.query('q') ?? '').slice(0, MAX_SEARCH_CHARS)
    const before = c.req.query('before') ?? ''
    const beforeId = ID_PATTERN.test(before) ? before : undefined
    const [page, total] = await Promise.all([
      listInbox(db, { search, beforeId, limit: PAGE_SIZE }),
      countInbox(db),
    ])
    const live = c.req.query('live') === '1'
    return c.html(listPage({ page, total, search, live, isOlderPage: beforeId !== undefined }))
  })

  routes.post('/clear', async (c) => {
    await clearInbox(db)
    return c.redirect(INBOX_PATH, 303)
  })
}

function addMailRoutes(routes: Hono, db: Database): void {
  routes.get(`/${ID}`, (c) =>
    withMail(db, c, async (mail) => {
      const wanted = MAIL_VIEWS.find((view) => view === c.req.query('view'))
      return c.html(mailPage(mail, await decodeMail(mail.raw), wanted))
    }),
  )

  routes.get(`/${ID}/html`, (c) =>
    withMail(db, c, async (mail) => {
      c.header('Content-Security-Policy', MAIL_HTML_POLICY)
      c.header('Referrer-Policy', 'no-referrer')
      return c.html((await decodeMail(mail.raw))?.html ?? '')
    }),
  )

  routes.get(`/${ID}/raw`, (c) =>
    withMail(db, c, (mail) => {
      c.header('Content-Security-Policy', BARE_POLICY)
      c.header('Content-Type', 'text/plain; charset=utf-8')
      return c.body(Uint8Array.from(mail.raw))
    }),
  )

  routes.get(`/${ID}/attachments/:index{[0-9]{1,5}}`, (c) =>
    withMail(db, c, async (mail) => {
      const part = (await decodeMail(mail.raw))?.attachments[Number(c.req.param('index'))]
      if (part === undefined) return c.html(missingPage('This attachment'), 404)
      c.header('Content-Security-Policy', BARE_POLICY)
      c.header('Content-Type', 'application/octet-stream')
      c.header('Content-Disposition', attachmentDisposition(part.name))
      return c.body(Uint8Array.from(part.content))
    }),
  )
}

async function withMail(
  db: Database,
  c: Context,
  answer: (mail: InboxMail) => Response | Promise<Response>,
): Promise<Response> {
  const mail = await readInboxMail(db, c.req.param('id') ?? '')
  return mail === undefined ? c.html(missingPage('This mail'), 404) : await answer(mail)
}

/** Set before the handlers, which tighten the policy for what comes out of a mail. */
const pageHeaders: MiddlewareHandler = async function pageHeaders(c, next) {
  c.header('Content-Security-Policy', INBOX_PAGE_POLICY)
  c.header('X-Content-Type-Options', 'nosniff')
  c.header('Cache-Control', 'no-store')
  c.header('Cross-Origin-Resource-Policy', 'same-origin')
  c.header('Cross-Origin-Opener-Policy', 'same-origin')
  // Not no-referrer: with it a browser posts our own form with `Origin: null`.
  c.header('Referrer-Policy', 'same-origin')
  await next()
}

/** RFC 6266 section 4.3, RFC 8187: a plain name for old clients, the true one in UTF-8. */
function attachmentDisposition(name: string): string {
  const plain = name.replace(/[^\x20-\x7e]|["\\%]/g, '_')
  const encoded = encodeURIComponent(name).replace(
    /['()*!]/g,
    (char) => `%${char.charCodeAt(0).toString(16)}`,
  )
  return `attachment; filename="${plain}"; filename*=UTF-8''${encoded}`
}
