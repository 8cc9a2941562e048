import { html } from 'hono/html'
import type { MessageState } from '../../states.ts'
import type { EmailAnswer } from '../openapi/email-answers.ts'
import { forOne } from './dead-letter-pages.ts'
import { type Cell, facts, field, moment, stateTag, text } from './elements.ts'
import { formToken, type Html, mayRead, type Page } from './frame.ts'
import type { MessageFacts } from './message-queries.ts'
import type { Session } from './session.ts'

export type ShownMessage = {
  readonly email: EmailAnswer
  /** As it was accepted, whatever shape that had. */
  readonly given: unknown
  readonly facts: MessageFacts
}

/** The source of a mail can be megabytes; a page shows its beginning. */
const MAX_SHOWN_CHARS = 100_000

export function messagePage({ email, given, facts: more }: ShownMessage, session: Session): Page {
  return {
    title: `Message ${email.id}`,
    section: 'messages',
    body: html`
      <div class="card">
        <p>${stateTag(email.status)} ${more.why}</p>
        ${actions(email, session)}
      </div>
      <section class="card" aria-labelledby="facts"><h2 id="facts">What it is</h2>${head(email, more, session)}</section>
      <section class="card" aria-labelledby="timeline"><h2 id="timeline">What happened</h2>${timeline(email)}</section>
      <section class="card" aria-labelledby="inside"><h2 id="inside">What is in it</h2>${content({ email, given, facts: more }, session)}</section>`,
  }
}

function head(email: EmailAnswer, more: MessageFacts, session: Session): Html {
  const { template, error } = email
  return facts([
    ['Subject', isReadable(more, session) ? text(email.subject) : null],
    ['From', email.from],
    ['To', email.to.join(', ')],
    ['Cc', email.cc.join(', ')],
    ['Bcc', email.bcc.join(', ')],
    ['Reply to', email.reply_to.join(', ')],
    ['Stream', email.stream],
    ['Priority', email.priority],
    ['Source', more.source],
    ['Tags', email.tags.map(({ name, value }) => `${name}: ${value}`).join(', ')],
    ['Accepted', moment(more.accepted_at)],
    ['Scheduled for', moment(email.scheduled_at)],
    ['Next attempt', moment(email.next_attempt_at)],
    ['Sent', moment(email.sent_at)],
    ['Attempts', email.attempts],
    ['Provider', email.provider],
    ["Provider's id", email.provider_message_id],
    ['Message-ID', email.message_id],
    [
      'Template',
      template && `${template.name}${template.version === null ? '' : `, version ${template.version}`}`,
    ],
    ['Last error', error && [error.code, error.reason].filter((each) => each !== null).join(': ')],
  ])
}

/** The oldest first, as one reads. */
function timeline({ timeline: events }: EmailAnswer): Html {
  if (events.length === 0) return html`<p class="soft">Nothing yet: it was accepted a moment ago.</p>`
  return html`<ol class="timeline">${events.map(
    ({ at, type, recipient, detail }) => html`<li>
      <span>${moment(at)}</span>
      <div><strong>${type.replaceAll('_', ' ')}</strong> ${text(recipient)} ${said(detail)}</div>
    </li>`,
  )}</ol>`
}

function said(detail: Readonly<Record<string, unknown>> | null): Html | string {
  const entries = Object.entries(detail ?? {}).filter(([, value]) => value !== null && value !== '')
  if (entries.length === 0) return ''
  return facts(
    entries.map(([name, value]): [string, Cell] => [
      name,
      typeof value === 'string' ? value : JSON.stringify(value),
    ]),
  )
}

function isReadable({ is_sensitive: isSensitive }: MessageFacts, session: Session): boolean {
  return mayRead(session) && isSensitive === false
}

function content({ email, given, facts: more }: ShownMessage, session: Session): Html {
  if (!mayRead(session)) {
    return html`<p class="soft">Subjects, bodies and data are shown to keys of scope <code>full</code>; this one has
      <code>${session.caller.scope}</code>.</p>`
  }
  if (more.is_sensitive === null) return html`<p class="soft">It is not stored yet: load the page again.</p>`
  if (more.is_sensitive) return html`<p><strong>Withheld:</strong> it is sensitive, and shown to nobody.</p>`
  return html`
    ${email.html !== null && html`<h3>HTML</h3><iframe sandbox src="/dashboard/messages/${email.id}/html" title="The HTML part, which loads and runs nothing"></iframe>`}
    ${email.text !== null && html`<h3>Text</h3><pre dir="auto" tabindex="0">${cut(email.text)}</pre>`}
    ${email.html === null && email.text === null && html`<p class="soft">It has no body yet: it is not rendered.</p>`}
    ${
      email.attachments.length > 0 &&
      html`<h3>Attachments</h3><ul>${email.attachments.map(
        (each) =>
          html`<li>${text(each.filename)}, ${each.content_type}${each.size === null ? '' : `, ${each.size} bytes`}</li>`,
      )}</ul>`
    }
    <details><summary>As it was accepted</summary><pre tabindex="0">${cut(JSON.stringify(given, null, 2) ?? '')}</pre></details>`
}

function cut(shown: string): string {
  return shown.length <= MAX_SHOWN_CHARS
    ? shown
    : `${shown.slice(0, MAX_SHOWN_CHARS).toWellFormed()}\n… (cut off here)`
}

const CHANGEABLE: readonly MessageState[] = ['scheduled', 'accepted', 'queued', 'deferred']

function actions({ id, status }: EmailAnswer, session: Session): Html {
  if (status === 'dead') return forOne(session, id, { back: 'message' })
  if (status === 'unknown') return settle(id, session)
  if (!CHANGEABLE.includes(status)) return html``
  return html`<div class="actions">
    <details class="sure"><summary>Another time</summary>
      <form method="post" action="/dashboard/messages/${id}/reschedule">${formToken(session)}
        <div class="fields">
          ${field('reschedule', {
            name: 'at',
            label: 'Send it',
            isRequired: true,
            hint: 'such as in 1 hour, tomorrow at 9am, 2026-08-05T11:52:00Z',
          })}
          <button>Reschedule</button>
        </div>
      </form>
    </details>
    <details class="sure"><summary>Cancel</summary>
      <form method="post" action="/dashboard/messages/${id}/cancel">${formToken(session)}
        <p>It is never sent.</p><button class="danger">Cancel it</button>
      </form>
    </details>
  </div>`
}

function settle(id: string, session: Session): Html {
  return html`<p>Find out from the provider or the recipient, and say which:</p>
    <div class="actions">
      ${[
        ['sent', 'It was sent'],
        ['retry', 'Send it again'],
      ].map(
        ([
          as,
          label,
        ]) => html`<form method="post" action="/dashboard/messages/${id}/settle">${formToken(session)}
          <input type="hidden" name="as" value="${as}"><button>${label}</button></form>`,
      )}
    </div>`
}
