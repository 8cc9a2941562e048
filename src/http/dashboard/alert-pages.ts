import { html } from 'hono/html'
import type { OpenAlert, PastAlert } from './alert-queries.ts'
import { momentAndAge, span } from './amounts.ts'
import { choice, facts, pageLinks, table, text } from './elements.ts'
import { formToken, type Html, type Page } from './frame.ts'
import type { Session } from './session.ts'
import { SEVERITY_TONES } from './summary.ts'

export const ALERTS_PATH = '/dashboard/alerts'
export const SILENCES_H = [1, 8, 24, 168] as const

export type AlertsView = {
  readonly now: Date
  readonly open: readonly OpenAlert[]
  readonly past: readonly PastAlert[]
  /** Who is told beside the log. */
  readonly targets: number
  readonly newest: string | undefined
  readonly older: string | undefined
  readonly session: Session
}

export function alertsPage({ now, open, past, targets, newest, older, session }: AlertsView): Page {
  return {
    title: 'Alerts',
    section: 'alerts',
    body: html`
      <p>Rules are rows of <code>mail.alert_rule</code>. ${targets === 0 && html`Nobody is told of alerts but the log: add rows to <code>mail.alert_target</code>.`}</p>
      <h2>Open</h2>
      ${open.length === 0 ? html`<div class="card"><p class="empty">No alert is open.</p></div>` : open.map((alert) => openCard(alert, session, now))}
      <h2>Past</h2>
      ${table<PastAlert>({
        caption: 'Resolved, the latest that fired first',
        empty: 'None yet.',
        rows: past,
        columns: [
          { name: 'What', kind: 'wide', cell: ({ what }) => text(what) },
          { name: 'Severity', cell: ({ severity }) => severityTag(severity) },
          { name: 'Since', kind: 'exact', cell: ({ since }) => momentAndAge(since, now) },
          {
            name: 'Lasted',
            kind: 'number',
            cell: ({ since, resolved_at: end }) => span((end.getTime() - since.getTime()) / 1_000),
          },
          { name: 'Rule', cell: ({ rule }) => html`<code>${rule}</code>` },
        ],
      })}
      ${pageLinks({ newest, older })}`,
  }
}

function severityTag(severity: PastAlert['severity']): Html {
  return html`<span class="state ${SEVERITY_TONES[severity]}">${severity}</span>`
}

function openCard(alert: OpenAlert, session: Session, now: Date): Html {
  const {
    id,
    severity,
    rule,
    what,
    since,
    command,
    page,
    told,
    acknowledged_by: by,
    acknowledged_at: at,
  } = alert
  return html`<article class="card" id="${id}">
    <h3>${severityTag(severity)} <bdi>${what}</bdi></h3>
    ${facts([
      ['Since', momentAndAge(since, now)],
      ['Rule', html`<code>${rule}</code>`],
      ['Told', told],
      ['Looked after by', by === null ? null : html`<bdi>${by}</bdi>, ${momentAndAge(at, now)}`],
      ['Silenced until', momentAndAge(alert.silenced_until, now)],
    ])}
    <p>What to look at next: ${page === '/' ? 'in' : html`<a href="${page}">its page</a>, or in`} psql</p>
    <pre>${command}</pre>
    <div class="actions">${by === null && acknowledgeForm(alert, session)}${silenceForm(alert, session)}</div>
  </article>`
}

function acknowledgeForm({ id }: OpenAlert, session: Session): Html {
  return html`<form method="post" action="${ALERTS_PATH}/acknowledge">${formToken(session)}
    <input type="hidden" name="id" value="${id}"><button>I look after it</button></form>`
}

function silenceForm({ id, rule, subject, silenced_until: until }: OpenAlert, session: Session): Html {
  const inputs = html`${formToken(session)}<input type="hidden" name="rule" value="${rule}">
    <input type="hidden" name="subject" value="${subject}">`
  if (until !== null) {
    return html`<form method="post" action="${ALERTS_PATH}/unsilence">${inputs}<button>End the silence</button></form>`
  }
  return html`<details class="sure"><summary>Silence</summary>
    <form method="post" action="${ALERTS_PATH}/silence">${inputs}
      <p>It stays open, and nobody is told of it meanwhile.</p>
      <div class="fields">
        ${choice(`silence-${id}`, {
          name: 'hours',
          label: 'For how long',
          options: SILENCES_H.map((hours) => [String(hours), span(hours * 3_600)]),
        })}
        <button>Silence it</button>
      </div>
    </form>
  </details>`
}
