import { html } from 'hono/html'
import { EVERY_STREAM } from '../suppression-entry.ts'
import { SUPPRESSION_ORIGINS, type Suppression } from '../suppression-queries.ts'
import { type Cell, choice, facts, field, moment, pageLinks, table, text } from './elements.ts'
import { formToken, type Html, type Page } from './frame.ts'
import type { Session } from './session.ts'

export type SuppressionView = {
  readonly filter: {
    readonly containing: string | undefined
    readonly origin: string | undefined
    readonly scope: string | undefined
  }
  readonly rows: readonly Suppression[]
  readonly streams: readonly string[]
  readonly newest: string | undefined
  readonly older: string | undefined
  readonly session: Session
}

export function suppressionPage(view: SuppressionView): Page {
  return {
    title: 'Suppression',
    section: 'suppression',
    body: html`
      <p>Addresses that get no mail, in every stream or in one: they bounced, complained, unsubscribed, or were put here.</p>
      ${searchForm(view)}
      ${addForm(view)}
      ${table({
        caption: 'The latest first',
        empty: 'No address on the list matches.',
        rows: view.rows,
        columns: [
          { name: 'Address', cell: (row) => text(row.address) },
          { name: 'Applies to', cell: (row) => scopeName(row.scope) },
          { name: 'Because of', cell: (row) => row.origin },
          { name: 'Reason', kind: 'wide', cell: (row) => html`${text(row.reason)} ${evidence(row)}` },
          { name: 'Added by', cell: (row) => text(row.source) },
          { name: 'Since', kind: 'exact', cell: (row) => moment(row.created_at) },
          { name: 'Until', kind: 'exact', cell: (row) => moment(row.expires_at) },
          { name: 'Change', cell: (row) => removal(row, view) },
        ],
      })}
      ${pageLinks(view)}`,
  }
}

function scopeName(scope: string): string {
  return scope === EVERY_STREAM ? 'every stream' : scope
}

/** What the rules went by; the message that led to it can be looked at. */
function evidence({ evidence: given }: Suppression): Html | string {
  if (given === null) return ''
  const entries = Object.entries(given).filter(([, value]) => value !== null)
  const shown = entries.map(([name, value]): [string, Cell] => {
    if (name === 'message_id' && typeof value === 'string') {
      return [name, html`<a href="/dashboard/messages/${encodeURIComponent(value)}">${value}</a>`]
    }
    return [name, typeof value === 'string' ? value : JSON.stringify(value)]
  })
  return html`<details><summary>Evidence</summary>${facts(shown)}</details>`
}

function removal(row: Suppression, { filter, session }: SuppressionView): Html {
  return html`<details class="sure"><summary aria-label="Take ${row.address} off">Take off</summary>
    <form method="post" action="/dashboard/suppressions/remove">${formToken(session)}
      <input type="hidden" name="id" value="${row.id}"><input type="hidden" name="q" value="${filter.containing ?? ''}">
      <p>It may get mail again${row.scope === EVERY_STREAM ? '' : ` of ${row.scope}`}.</p>
      <button class="danger" aria-label="Take ${row.address} off the list">Take it off</button>
    </form>
  </details>`
}

function scopes(streams: readonly string[]): (readonly [string, string])[] {
  return [[EVERY_STREAM, 'every stream'], ...streams.map((stream) => [stream, stream] as const)]
}

function searchForm({ filter, streams }: SuppressionView): Html {
  return html`<form class="card" action="/dashboard/suppressions" role="search">
    <div class="fields">
      ${field('search', { name: 'q', label: 'Address, or a part of it', type: 'search', value: filter.containing, isWide: true })}
      ${choice('search', {
        name: 'origin',
        label: 'Because of',
        value: filter.origin,
        options: [['', 'any'], ...SUPPRESSION_ORIGINS.map((origin) => [origin, origin] as const)],
      })}
      ${choice('search', { name: 'scope', label: 'Applies to', value: filter.scope, options: [['', 'any'], ...scopes(streams)] })}
      <button class="primary">Search</button>
    </div>
  </form>`
}

function addForm({ streams, session }: SuppressionView): Html {
  return html`<details><summary>Add an address, or many</summary>
    <form class="card" method="post" action="/dashboard/suppressions/add">${formToken(session)}
      <div class="fields">
        ${field('add', { name: 'address', label: 'Address', isRequired: true, isWide: true })}
        ${choice('add', { name: 'scope', label: 'Applies to', options: scopes(streams) })}
        ${field('add', { name: 'reason', label: 'Reason', isWide: true })}
        ${field('add', { name: 'until', label: 'Until', type: 'datetime-local', hint: 'empty: for ever' })}
        <button class="primary">Add it</button>
      </div>
      <p class="soft">Many at once come as CSV: <code>POST /suppressions/import</code>, see <a href="/docs">the API</a>.
        The whole list as CSV: <a href="/dashboard/suppressions/export">export</a>.</p>
    </form>
  </details>`
}
