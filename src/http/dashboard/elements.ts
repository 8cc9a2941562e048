import { html } from 'hono/html'
import type { MessageState } from '../../states.ts'
import type { Html } from './frame.ts'

/** What pages are put together from: tables, moments, states, fields, and links to more. */

export type Cell = Html | string | number | null

export type Column<Row> = {
  readonly name: string
  /** `number`: to the right, its digits in columns. `exact`: never broken over lines. `wide`: sentences. */
  readonly kind?: 'number' | 'exact' | 'wide'
  readonly cell: (row: Row) => Cell
}

type Table<Row> = {
  readonly caption: string
  /** The first names the row. */
  readonly columns: readonly Column<Row>[]
  readonly rows: readonly Row[]
  /** Said when there are none. */
  readonly empty: string
}

/** On a narrow screen each row becomes a card, and its cells say their column; the roles keep it a table to readers. */
export function table<Row>({ caption, columns, rows, empty }: Table<Row>): Html {
  if (rows.length === 0) return html`<div class="card"><p class="empty">${empty}</p></div>`
  const [first, ...others] = columns
  return html`<table role="table">
    <caption>${caption}</caption>
    <thead role="rowgroup"><tr role="row">
      ${columns.map((column) => html`<th role="columnheader" scope="col" class="${column.kind ?? ''}">${column.name}</th>`)}
    </tr></thead>
    <tbody role="rowgroup">
      ${rows.map(
        (row) => html`<tr role="row">
          <th role="rowheader" scope="row" class="${first?.kind ?? ''}">${first?.cell(row)}</th>
          ${others.map((column) => {
            const cell = column.cell(row)
            return html`<td role="cell" class="${column.kind ?? ''}" data-label="${column.name}">${isNothing(cell) ? '–' : cell}</td>`
          })}
        </tr>`,
      )}
    </tbody>
  </table>`
}

function isNothing(cell: Cell): boolean {
  return cell === null || cell === ''
}

/** To the second, in UTC. */
export function moment(at: Date | string | null): Html | null {
  if (at === null) return null
  const iso = new Date(at).toISOString()
  return html`<time datetime="${iso}" title="${iso}">${iso.slice(0, 10)} ${iso.slice(11, 19)}</time>`
}

/** To its page; narrow, so that lists of them have room for more. */
export function messageLink(id: string): Html {
  return html`<a href="/dashboard/messages/${id}"><code>${id}</code></a>`
}

/** How states look; each says its name as well. */
const TONES: Partial<Record<MessageState, 'good' | 'warn' | 'bad'>> = {
  sent: 'good',
  delivered: 'good',
  deferred: 'warn',
  unknown: 'warn',
  suppressed: 'warn',
  bounced: 'bad',
  complained: 'bad',
  dead: 'bad',
}

export function stateTag(state: MessageState): Html {
  return html`<span class="state ${TONES[state] ?? ''}">${state}</span>`
}

/** A list of names and values; what has no value is left out. */
export function facts(entries: readonly (readonly [name: string, value: Cell])[]): Html {
  return html`<dl class="facts">${entries.map(([name, value]) =>
    isNothing(value) ? '' : html`<dt>${name}</dt><dd>${typeof value === 'string' ? text(value) : value}</dd>`,
  )}</dl>`
}

/** Text of strangers, whichever way it is written. */
export function text(value: string | null): Html | null {
  return value === null || value === '' ? null : html`<bdi>${value}</bdi>`
}

export type Field = {
  readonly name: string
  readonly label: string
  readonly value?: string | undefined
  readonly type?: 'text' | 'search' | 'number' | 'datetime-local' | 'email'
  readonly hint?: string
  readonly isWide?: boolean
  readonly isRequired?: boolean
  readonly min?: number
  readonly max?: number
}

/** `scope` tells apart the ids of two forms of a page. */
export function field(scope: string, each: Field): Html {
  const id = `${scope}-${each.name}`
  return html`<div class="field${each.isWide ? ' wide' : ''}">
    <label for="${id}">${each.label}</label>
    <input id="${id}" name="${each.name}" type="${each.type ?? 'text'}" value="${each.value ?? ''}"
      ${each.min !== undefined && html`min="${each.min}"`} ${each.max !== undefined && html`max="${each.max}"`}
      ${each.type === 'number' && html`step="any"`} ${each.isRequired && html`required`}
      ${each.hint !== undefined && html`aria-describedby="${id}-hint"`} maxlength="600" autocomplete="off">
    ${each.hint !== undefined && html`<span class="soft" id="${id}-hint">${each.hint}</span>`}
  </div>`
}

type Choice = {
  readonly name: string
  readonly label: string
  readonly value?: string | undefined
  readonly options: readonly (readonly [value: string, label: string])[]
}

export function choice(scope: string, { name, label, value = '', options }: Choice): Html {
  const id = `${scope}-${name}`
  return html`<div class="field">
    <label for="${id}">${label}</label>
    <select id="${id}" name="${name}">
      ${options.map(
        ([each, shown]) =>
          html`<option value="${each}"${each === value ? html` selected` : ''}>${shown}</option>`,
      )}
    </select>
  </div>`
}

/** A path with those of the parameters that say something. */
export function linkTo(
  path: string,
  parameters: Readonly<Record<string, string | null | undefined>>,
): string {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== '') query.set(name, value)
  }
  return query.size === 0 ? path : `${path}?${query}`
}

/** Links to the pages around this one. */
export function pageLinks(links: {
  readonly newest?: string | undefined
  readonly older?: string | undefined
}): Html {
  if (links.newest === undefined && links.older === undefined) return html``
  return html`<nav class="pages" aria-label="More of this list">
    ${links.newest !== undefined && html`<a class="button" href="${links.newest}">Newest</a>`}
    ${links.older !== undefined && html`<a class="button" href="${links.older}">Older</a>`}
  </nav>`
}

export function counted(count: number, one: string, many = `${one}s`): string {
  return `${new Intl.NumberFormat('en-US').format(count)} ${count === 1 ? one : many}`
}
