import type { Context } from 'hono'
import { html } from 'hono/html'
import type { AuthEnv } from '../auth.ts'
import { INBOX_PATH } from '../inbox-pages.ts'
import { ASSETS_PATH } from './assets.ts'
import { noticeIn } from './notice.ts'
import type { Session } from './session.ts'

/** What every page is made of: head, navigation, notice, body. */

export type Html = ReturnType<typeof html>

export type DashboardEnv = {
  Variables: AuthEnv['Variables'] & {
    /** Unset on the page to sign in. */
    session: Session
    hasInbox: boolean
    /** The form that was posted, checked to come from a page of this session. */
    form: URLSearchParams
  }
}
export type PageContext = Context<DashboardEnv>

/** The parts of the dashboard, in the order of the navigation. */
const SECTIONS = {
  overview: { path: '/', name: 'Overview' },
  alerts: { path: '/dashboard/alerts', name: 'Alerts' },
  providers: { path: '/dashboard/providers', name: 'Providers' },
  streams: { path: '/dashboard/streams', name: 'Streams' },
  messages: { path: '/dashboard/messages', name: 'Messages' },
  deadLetters: { path: '/dashboard/dead-letters', name: 'Dead letters' },
  suppression: { path: '/dashboard/suppressions', name: 'Suppression' },
  templates: { path: '/dashboard/templates', name: 'Templates' },
  processes: { path: '/dashboard/processes', name: 'Processes' },
} as const
export type Section = keyof typeof SECTIONS

export type Page = {
  /** The first heading, and with the product's name the title. */
  readonly title: string
  readonly section?: Section
  readonly body: Html
  readonly status?: 200 | 400 | 401 | 403 | 404 | 405 | 413 | 422 | 429 | 500 | 503
  /** Paths of scripts below ASSETS_PATH: the page has to work without. */
  readonly scripts?: readonly string[]
  /** Paths of stylesheets below ASSETS_PATH, beside that of all pages. */
  readonly styles?: readonly string[]
}

/** The answer to a request for a page. */
export function show(c: PageContext, page: Page): Response | Promise<Response> {
  return c.html(document(c, page), page.status ?? 200)
}

function document(c: PageContext, { title, section, body, scripts = [], styles = [] }: Page): Html {
  const session = c.get('session') as Session | undefined
  return html`<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="robots" content="noindex">
    <title>${title} · Sluice</title>
    <link rel="icon" href="${ASSETS_PATH}/icon.svg" type="image/svg+xml">
    <link rel="stylesheet" href="${ASSETS_PATH}/dashboard.css">
    ${styles.map((path) => html`<link rel="stylesheet" href="${ASSETS_PATH}/${path}">`)}
    ${scripts.map((path) => html`<script src="${ASSETS_PATH}/${path}" type="module"></script>`)}
  </head>
  <body>
    <a class="skip" href="#content">Skip to the content</a>
    ${session === undefined ? html`<header class="top"><p class="brand">Sluice</p></header>` : header(c, session, section)}
    <main id="content" tabindex="-1">
      <h1 dir="auto">${title}</h1>
      ${session === undefined ? '' : noticeIn(c, session)}
      ${body}
    </main>
    ${session !== undefined && html`<footer><p>All times are UTC.</p></footer>`}
  </body>
</html>`
}

function header(c: PageContext, session: Session, section: Section | undefined): Html {
  return html`<header class="top">
      <p class="brand"><a href="/">Sluice</a></p>
      <nav aria-label="Parts of the dashboard">
        <ul>
          ${Object.entries(SECTIONS).map(
            ([key, { path, name }]) =>
              html`<li><a href="${path}"${key === section ? html` aria-current="page"` : ''}>${name}</a></li>`,
          )}
          ${c.get('hasInbox') ? html`<li><a href="${INBOX_PATH}">Inbox</a></li>` : ''}
          <li><a href="/docs">API</a></li>
        </ul>
      </nav>
      <form class="account" method="post" action="/logout">
        ${formToken(session)}
        <span class="soft">Key <bdi>${session.caller.name}</bdi> <span class="tag">${session.caller.scope}</span></span>
        <button>Sign out</button>
      </form>
    </header>`
}

/** Stands in every form that changes something: without it the form is refused. */
export function formToken({ formToken: token }: Session): Html {
  return html`<input type="hidden" name="form_token" value="${token}">`
}

/** Bodies, subjects, template sources and data are for keys that may also read (see docs/keys.md). */
export function mayRead({ caller }: Session): boolean {
  return caller.scope === 'full'
}
