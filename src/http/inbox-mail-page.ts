import { html } from 'hono/html'
import type { InboxMail } from '../inbox/queries.ts'
import { type DecodedMail, headerValues } from './inbox-mail.ts'
import {
  envelopeSender,
  formatBytes,
  fullTime,
  type Html,
  INBOX_PATH,
  layout,
  SENSITIVE_MARK,
} from './inbox-pages.ts'

/** The ways to look at one mail, in the order of the tabs. */
export const MAIL_VIEWS = ['html', 'text', 'headers', 'raw'] as const
export type MailView = (typeof MAIL_VIEWS)[number]

const VIEW_NAMES: Readonly<Record<MailView, string>> = {
  html: 'HTML',
  text: 'Text',
  headers: 'Headers',
  raw: 'Raw',
}

/** The page shows this much of the source; all of it is one click away. */
const MAX_RAW_SHOWN_BYTES = 256 * 1024

/** `decoded` is undefined for a mail whose structure cannot be read: its source is still shown. */
export function mailPage(
  mail: InboxMail,
  decoded: DecodedMail | undefined,
  wanted: MailView | undefined,
): Html {
  const views = availableViews(decoded)
  const view = wanted !== undefined && views.includes(wanted) ? wanted : (views[0] ?? 'raw')
  return layout({
    title: mail.subject ?? '(no subject)',
    top: html`<span class="count"></span><a class="button" href="${INBOX_PATH}">All mail</a>`,
    body: html`
      <article class="card">
        <div class="top">
          <h2 dir="auto">${mail.subject ?? '(no subject)'}</h2>
          ${mail.is_sensitive ? SENSITIVE_MARK : ''}
          ${facts(mail, decoded)}
        </div>
        <nav aria-label="Parts of the mail">${views.map((each) => tab(mail.id, each, each === view))}</nav>
        ${body(mail, decoded, view)}
      </article>
      ${decoded === undefined ? '' : html`${attachmentList(mail.id, decoded)}${linkList(decoded)}`}`,
  })
}

function availableViews(decoded: DecodedMail | undefined): MailView[] {
  if (decoded === undefined) return ['raw']
  const present = {
    html: decoded.html !== undefined,
    text: decoded.text !== undefined,
    headers: true,
    raw: true,
  }
  return MAIL_VIEWS.filter((view) => present[view])
}

function facts(mail: InboxMail, decoded: DecodedMail | undefined): Html {
  const shown = (name: string) => (decoded === undefined ? [] : headerValues(decoded, name))
  return html`<dl>
    ${fact('From', mail.sender ?? undefined)}
    ${fact('To', ...shown('to'))}
    ${fact('Cc', ...shown('cc'))}
    ${fact('Reply to', ...shown('reply-to'))}
    <dt>Envelope</dt><dd>${envelopeSender(mail)} → ${mail.recipients.join(', ')}</dd>
    <dt>Received</dt><dd>${fullTime(mail.received_at)} · ${formatBytes(mail.size_bytes)}</dd>
    ${mail.message_id === null ? '' : html`<dt>Sluice id</dt><dd><code>${mail.message_id}</code></dd>`}
  </dl>`
}

function fact(name: string, ...values: (string | undefined)[]): Html {
  const shown = values.filter((value) => value !== undefined && value !== '')
  return shown.length === 0 ? html`` : html`<dt>${name}</dt><dd><bdi>${shown.join(', ')}</bdi></dd>`
}

function tab(id: string, view: MailView, isCurrent: boolean): Html {
  const href = `${INBOX_PATH}/${id}?view=${view}`
  return isCurrent
    ? html`<a href="${href}" aria-current="page">${VIEW_NAMES[view]}</a>`
    : html`<a href="${href}">${VIEW_NAMES[view]}</a>`
}

function body(mail: InboxMail, decoded: DecodedMail | undefined, view: MailView): Html {
  if (decoded === undefined) {
    return html`<p class="note">This mail is nested too deeply or has too many headers to be taken apart.</p>
      ${rawSource(mail)}`
  }
  switch (view) {
    case 'html':
      return html`<iframe sandbox src="${INBOX_PATH}/${mail.id}/html" title="HTML part"></iframe>`
    case 'text':
      return html`<pre dir="auto">${decoded.text ?? ''}</pre>`
    case 'headers':
      return html`<dl class="headers">
        ${decoded.headers.map(({ name, value }) => html`<dt>${name}</dt><dd><bdi>${value}</bdi></dd>`)}
      </dl>`
    case 'raw':
      return rawSource(mail)
  }
}

function rawSource(mail: InboxMail): Html {
  const shown = mail.raw.subarray(0, MAX_RAW_SHOWN_BYTES).toString('utf8')
  const isCut = mail.raw.length > MAX_RAW_SHOWN_BYTES
  return html`<p class="note">
      ${isCut ? `The first ${formatBytes(MAX_RAW_SHOWN_BYTES)} of the source. ` : ''}
      <a href="${INBOX_PATH}/${mail.id}/raw">Open the source as plain text</a>
    </p>
    <pre>${shown}</pre>`
}

function attachmentList(id: string, { attachments }: DecodedMail): Html {
  if (attachments.length === 0) return html``
  return html`<section class="card">
    <h3>Attachments</h3>
    <ul>${attachments.map(
      (part, index) => html`<li>
        <a href="${INBOX_PATH}/${id}/attachments/${index}"><bdi>${part.name}</bdi></a>
        · ${part.mimeType} · ${formatBytes(part.content.length)}
      </li>`,
    )}</ul>
  </section>`
}

function linkList({ links }: DecodedMail): Html {
  if (links.length === 0) return html``
  return html`<section class="card">
    <h3>Links in this mail</h3>
    <ul>${links.map(
      (link) => html`<li><a href="${link}" target="_blank" rel="noopener noreferrer">${link}</a></li>`,
    )}</ul>
  </section>`
}
