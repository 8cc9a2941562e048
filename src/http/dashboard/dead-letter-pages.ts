import { html } from 'hono/html'
import type { DeadLetterGroup } from '../control-queries.ts'
import {
  type DeadLetterFilter,
  FILTER_FIELDS,
  filterOf,
  LETTERS_PATH,
  lettersLink,
  parametersFor,
} from './dead-letter-filter.ts'
import type { DeadLetter } from './dead-letter-queries.ts'
import { counted, facts, field, linkTo, messageLink, moment, pageLinks, table, text } from './elements.ts'
import { formToken, type Html, type Page } from './frame.ts'
import { fieldMoment } from './input.ts'
import type { Session } from './session.ts'

export const RETRY_DEFAULTS = { perSecond: 100, limits: { min: 0.001, max: 1_000_000 } } as const

export function groupsPage(groups: readonly DeadLetterGroup[], isCut: boolean): Page {
  return {
    title: 'Dead letters',
    section: 'deadLetters',
    body: html`
      <p>Messages that failed for good, together where they have a cause in common. Repair the cause, then retry:
        a retry starts with the template and the suppression list as they are then.</p>
      ${filterForm({}, 'Find by field', groups.length === 0)}
      ${table({
        caption: isCut ? `The ${groups.length} largest causes` : 'Causes, the largest first',
        empty: 'There are no dead letters.',
        rows: groups,
        columns: [
          {
            name: 'Cause',
            kind: 'wide',
            cell: (group) =>
              html`<a href="${lettersLink(filterOf(group))}"><bdi>${group.code}</bdi> in ${group.stage}</a>`,
          },
          { name: 'Messages', kind: 'number', cell: (group) => group.messages },
          { name: 'Template', cell: (group) => versioned(group) },
          { name: 'Source', cell: (group) => text(group.source) },
          { name: 'To', cell: (group) => text(group.recipient_domains) },
          { name: 'First', kind: 'exact', cell: (group) => moment(group.first_seen) },
          { name: 'Last', kind: 'exact', cell: (group) => moment(group.last_seen) },
          { name: 'For example', kind: 'wide', cell: (group) => sample(group) },
        ],
      })}`,
  }
}

function sample({ sample_id: id, sample_reason: reason }: DeadLetterGroup): Html {
  return html`<a href="/dashboard/messages/${id}"><bdi>${reason.slice(0, 300)}</bdi></a>`
}

function versioned({
  template,
  template_version: version,
}: Pick<DeadLetter, 'template' | 'template_version'>): Html | null {
  if (template === null) return null
  return html`<bdi>${template}</bdi>${version === null ? '' : ` version ${version}`}`
}

export type Letters = {
  readonly filter: DeadLetterFilter
  readonly letters: readonly DeadLetter[]
  readonly hasMore: boolean
  readonly isFirst: boolean
  readonly count: number
  /** There are `count` or more. */
  readonly isCut: boolean
  /** What died later is not on the page, and not meant by its forms. */
  readonly seenAt: Date
  readonly session: Session
}

export function lettersPage(view: Letters): Page {
  const { filter, letters, hasMore, isFirst, count, isCut, session } = view
  const last = letters.at(-1)
  return {
    title: `${isCut ? 'At least ' : ''}${counted(count, 'dead letter')}`,
    section: 'deadLetters',
    body: html`
      <p><a href="/dashboard/dead-letters">All causes</a></p>
      ${facts(described(filter))}
      ${filterForm(filter, 'Change the filter', count === 0)}
      ${count > 0 && forAll(view)}
      ${table({
        caption: 'The latest first',
        empty: 'No dead letter matches: they were retried or discarded, or never were.',
        rows: letters,
        columns: [
          { name: 'Message', kind: 'exact', cell: (each) => messageLink(each.message_id) },
          { name: 'Died', kind: 'exact', cell: (each) => moment(each.died_at) },
          {
            name: 'Why',
            kind: 'wide',
            cell: (each) =>
              html`<code>${each.code}</code> in ${each.stage}: <bdi>${each.reason.slice(0, 500)}</bdi>`,
          },
          {
            name: 'Stream',
            cell: (each) =>
              html`${each.stream}${each.provider !== null && html` by <bdi>${each.provider}</bdi>`}`,
          },
          { name: 'Template', cell: versioned },
          { name: 'Source', cell: (each) => text(each.source) },
          { name: 'To', cell: (each) => text(each.recipient_domain) },
          { name: 'Repair', cell: (each) => forOne(session, each.message_id, { filter: queryOf(filter) }) },
        ],
      })}
      ${pageLinks({
        newest: isFirst ? undefined : lettersLink(filter),
        older:
          hasMore && last ? lettersLink(filter, { after: `${last.position}.${last.message_id}` }) : undefined,
      })}`,
  }
}

/** Retry and discard of one message, going back to the page they stand on. */
export function forOne(session: Session, id: string, hidden: Readonly<Record<string, string>>): Html {
  const inputs = html`${formToken(session)}<input type="hidden" name="id" value="${id}">
    ${Object.entries(hidden).map(([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`)}`
  return html`<div class="actions">
    <form method="post" action="/dashboard/dead-letters/retry">${inputs}<button aria-label="Retry ${id}">Retry</button></form>
    <details class="sure"><summary aria-label="Discard ${id}">Discard</summary>
      <form method="post" action="/dashboard/dead-letters/discard">${inputs}
        <p>It becomes canceled and is never sent.</p><button class="danger" aria-label="Discard ${id} for good">Discard it</button>
      </form>
    </details>
  </div>`
}

function forAll({ filter, count, isCut, seenAt, session }: Letters): Html {
  const inputs = html`${formToken(session)}<input type="hidden" name="filter" value="${queryOf(filter)}">
    <input type="hidden" name="seen_at" value="${seenAt.toISOString()}">`
  const all = isCut ? 'those that match' : count === 1 ? 'the one that matches' : `all ${count} that match`
  const most = {
    name: 'max',
    label: 'At most',
    type: 'number',
    value: String(count),
    min: 1,
    isRequired: true,
  } as const
  const perSecond = {
    name: 'per_second',
    label: 'A second',
    type: 'number',
    value: String(RETRY_DEFAULTS.perSecond),
    min: 0,
    isRequired: true,
  } as const
  return html`<div class="actions">
    <details class="sure"><summary>Retry ${all}</summary>
      <form method="post" action="/dashboard/dead-letters/retry">${inputs}
        <p>The oldest go first. Recipients who have a message already do not get it again.</p>
        <div class="fields">${field('retry', most)}${field('retry', perSecond)}<button class="primary">Retry them</button></div>
      </form>
    </details>
    <details class="sure"><summary>Discard ${all}</summary>
      <form method="post" action="/dashboard/dead-letters/discard">${inputs}
        <p>They become canceled and are never sent. This cannot be undone.</p>
        <div class="fields">${field('discard', most)}<button class="danger">Discard them</button></div>
      </form>
    </details>
  </div>`
}

function queryOf(filter: DeadLetterFilter): string {
  return new URLSearchParams(parametersFor(filter)).toString()
}

function described(filter: DeadLetterFilter): (readonly [string, string])[] {
  const fields = Object.entries(FILTER_FIELDS).flatMap(([name, label]): [string, string][] => {
    const value = filter[name as keyof typeof FILTER_FIELDS]
    return value === undefined ? [] : [[label, value ?? 'none']]
  })
  const times = (['since', 'until'] as const).flatMap((name): [string, string][] => {
    const at = filter[name]
    return at === undefined ? [] : [[name === 'since' ? 'Died since' : 'Died before', at]]
  })
  return [...fields, ...times]
}

function filterForm(filter: DeadLetterFilter, summary: string, isOpen: boolean): Html {
  const at = (name: 'since' | 'until') => {
    const text = filter[name]
    return text === undefined ? '' : fieldMoment(new Date(text))
  }
  return html`<details ${isOpen && html`open`}><summary>${summary}</summary>
    <form class="card" action="${linkTo(LETTERS_PATH, {})}">
      <div class="fields">
        ${Object.entries(FILTER_FIELDS).map(([name, label]) =>
          field('filter', { name, label, value: filter[name as keyof typeof FILTER_FIELDS] ?? '' }),
        )}
        ${field('filter', { name: 'since', label: 'Died since', type: 'datetime-local', value: at('since') })}
        ${field('filter', { name: 'until', label: 'Died before', type: 'datetime-local', value: at('until') })}
        <button>Show</button>
      </div>
    </form>
  </details>`
}
