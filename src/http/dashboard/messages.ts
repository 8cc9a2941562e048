import type { Hono } from 'hono'
import { html } from 'hono/html'
import { ApiError } from '../../errors.ts'
import { formatAddress, parseAddress } from '../../message/address.ts'
import { MESSAGE_STATES } from '../../states.ts'
import type { AppDeps } from '../deps.ts'
import { isEmailId } from '../email-id.ts'
import { type ListParameters, readCursor, readFilter } from '../email-list.ts'
import { findEmails, isEmail, type ListedEmail } from '../email-list-queries.ts'
import { isAtTheDoor } from '../queries.ts'
import { choice, field, linkTo, messageLink, moment, pageLinks, stateTag, table, text } from './elements.ts'
import { type DashboardEnv, type Html, mayRead, type Page, type PageContext, show } from './frame.ts'
import { fieldMoment, momentIn, parametersOf, wordsIn } from './input.ts'
import { findByProviderId } from './message-queries.ts'

type Deps = Pick<AppDeps, 'db' | 'catalog'>

const PATH = '/dashboard/messages'
const PAGE_SIZE = 50

/** `/dashboard/messages`: found by id, address, tag, state, stream and time. */
export function addMessages(routes: Hono<DashboardEnv>, deps: Deps): void {
  routes.get(PATH, async (c) => {
    const given = parametersOf(c.req.url)
    const id = await namedBy(deps, wordsIn(given, 'q'))
    if (id !== undefined) return c.redirect(`${PATH}/${id}`, 303)
    try {
      return await show(c, await found(deps, c, given))
    } catch (error) {
      if (!(error instanceof ApiError) || error.status >= 500) throw error
      return show(
        c,
        searchPage(deps, given, html`<p class="notice failed" role="alert">${error.message}</p>`, 422),
      )
    }
  })
}

/** The one message that these words are an id of: ours, the Message-ID, or what an HTTP provider calls it. */
async function namedBy({ db }: Deps, words: string | undefined): Promise<string | undefined> {
  if (words === undefined) return undefined
  const [, local] = /^<?([0-9a-f-]{36})(?:@[^\s@]+)?>?$/i.exec(words) ?? []
  if (local !== undefined && isEmailId(local)) {
    const id = local.toLowerCase()
    return (await isEmail(db, id)) || (await isAtTheDoor(db, id)) ? id : undefined
  }
  const [only, ...others] = await findByProviderId(db, words)
  return others.length === 0 ? only : undefined
}

async function found(deps: Deps, c: PageContext, given: URLSearchParams): Promise<Page> {
  const parameters = parametersIn(given)
  const filter = readFilter(parameters)
  const cursor = await readCursor(deps, parameters)
  const emails = await findEmails(deps.db, filter, cursor, PAGE_SIZE + 1)
  const page = emails.slice(0, PAGE_SIZE)
  const link = (after: string | undefined) => linkTo(PATH, { ...Object.fromEntries(given), after })
  const links = pageLinks({
    newest: cursor === undefined ? undefined : link(undefined),
    older: emails.length > PAGE_SIZE ? link(page.at(-1)?.id) : undefined,
  })
  return searchPage(deps, given, html`${emailTable(page, mayRead(c.get('session')))}${links}`)
}

/** As `GET /emails` takes them. */
function parametersIn(given: URLSearchParams): ListParameters {
  const words = (name: string) => wordsIn(given, name)
  const q = words('q')
  if (q !== undefined && !parseAddress(q).ok) {
    throw new ApiError(
      'not_found',
      'No message has this id. Search by an id, a Message-ID, the id a provider gave it, or a whole address.',
    )
  }
  const after = momentIn(given, 'since', 'Accepted since')
  const before = momentIn(given, 'until', 'Accepted before')
  return Object.fromEntries(
    Object.entries({
      recipient: q,
      tag: words('tag'),
      status: words('state'),
      stream: words('stream'),
      accepted_after: after?.toISOString(),
      accepted_before: before?.toISOString(),
      after: words('after'),
    }).filter(([, value]) => value !== undefined),
  )
}

function emailTable(emails: readonly ListedEmail[], isReader: boolean): Html {
  const subject = {
    name: 'Subject',
    kind: 'wide' as const,
    cell: (email: ListedEmail) => text(email.subject?.slice(0, 200) ?? null),
  }
  return table({
    caption: 'Messages, the latest first',
    empty: 'No message was found.',
    rows: emails,
    columns: [
      { name: 'Message', kind: 'exact', cell: (email) => messageLink(email.id) },
      { name: 'State', cell: (email) => stateTag(email.status) },
      { name: 'Accepted', kind: 'exact', cell: (email) => html`${email.created_at.slice(0, 19)}` },
      { name: 'To', cell: (email) => text((email.to ?? []).map(formatAddress).join(', ').slice(0, 200)) },
      ...(isReader ? [subject] : []),
      { name: 'Stream', cell: (email) => email.stream },
      { name: 'For', kind: 'exact', cell: (email) => moment(email.scheduled_at) },
    ],
  })
}

function searchPage({ catalog }: Deps, given: URLSearchParams, results: Html, status: 200 | 422 = 200): Page {
  const streams = [...catalog.current.streams.keys()].sort()
  return {
    title: 'Messages',
    section: 'messages',
    status,
    body: html`<form class="card" action="${PATH}" role="search">
        <div class="fields">
          ${field('search', { name: 'q', label: 'Id or address', type: 'search', value: wordsIn(given, 'q'), isWide: true })}
          ${choice('search', {
            name: 'state',
            label: 'State',
            value: wordsIn(given, 'state'),
            options: [['', 'any'], ...MESSAGE_STATES.map((state) => [state, state] as const)],
          })}
          ${choice('search', {
            name: 'stream',
            label: 'Stream',
            value: wordsIn(given, 'stream'),
            options: [['', 'any'], ...streams.map((stream) => [stream, stream] as const)],
          })}
          ${field('search', { name: 'tag', label: 'Tag', value: wordsIn(given, 'tag') })}
          ${field('search', { name: 'since', label: 'Accepted since', type: 'datetime-local', value: shown(given, 'since') })}
          ${field('search', { name: 'until', label: 'Accepted before', type: 'datetime-local', value: shown(given, 'until') })}
          <button class="primary">Search</button>
        </div>
      </form>
      ${results}`,
  }
}

/** Nothing where it is no time: the page says so. */
function shown(given: URLSearchParams, name: string): string {
  try {
    return fieldMoment(momentIn(given, name, name))
  } catch (error) {
    if (error instanceof ApiError) return ''
    throw error
  }
}
