import { ALERT_SOURCE, ALERT_STREAM, providerForAlerts } from '../alert-mail.ts'
import type { Provider, Stream } from '../catalog.ts'
import type { Database } from '../db/pool.ts'
import { parseAddress } from '../message/address.ts'
import type { Address, Message, TemplateReference } from '../message/message.ts'
import type { UnsubscribeLinks } from '../unsubscribe-links.ts'
import type * as queries from './queries.ts'
import { type Readable, recipientsOf } from './read-batch.ts'
import type { Rendered, RenderRequest, RenderResult } from './render/contract.ts'
import { explained } from './render/remedies.ts'
import type { RenderPool } from './render/render-pool.ts'
import type { ProcessedRow } from './store-queries.ts'
import { sourceOf, type Templates, type UsableTemplate } from './templates.ts'
import { type Bodies, lackOf, NO_OFFER, type Offer, offerOf, streamVariables } from './unsubscribe.ts'

/** What processing decides for each message of a batch, before anything is written. */
export type Prepared = {
  readonly rows: ProcessedRow[]
  /** Messages whose template is known to hurt: they are processed again, each alone. */
  readonly deferred: string[]
}

export type PrepareDeps = {
  readonly db: Database
  readonly renderer: RenderPool
  readonly unsubscribeLinks: UnsubscribeLinks
}

const REASON_LENGTH = 2_000

/** Renders, and routes. Writes nothing. */
export async function prepareBatch(
  deps: PrepareDeps,
  stream: Stream,
  providers: ReadonlyMap<string, Provider>,
  { messages: batch, templates, suppressed }: Readable,
): Promise<Prepared> {
  const offers = new Map(batch.map((each) => [each, offerOf(stream, each, deps.unsubscribeLinks)]))
  const given = (each: queries.AcceptedMessage) => streamVariables(stream, offers.get(each) ?? NO_OFFER)
  const priority = Math.min(...batch.map((each) => each.priority))
  const [{ rendered, deferred }, texts] = await Promise.all([
    render(deps.renderer, { batch, templates, given, priority }),
    deriveTexts(deps.renderer, batch, priority),
  ])
  const provider = stream.route.find((name) => providers.has(name))
  const isAboutAlerts = ({ source }: queries.AcceptedMessage) =>
    stream.name === ALERT_STREAM && source === ALERT_SOURCE
  // Not by the provider that it may be about.
  const sound = batch.some(isAboutAlerts) ? await providerForAlerts(deps.db) : undefined
  const later = new Set(deferred)
  const rows = batch
    .filter((each) => !later.has(each.id))
    .map((each) => {
      const template = each.message.template && templates(each.message.template)
      return decide({
        accepted: each,
        template,
        rendered: rendered.get(each.id),
        text: texts.get(each.id),
        offer: offers.get(each) ?? NO_OFFER,
        suppressed,
        provider: isAboutAlerts(each) ? (sound ?? provider) : provider,
        stream,
      })
    })
  return { rows, deferred }
}

type Known = {
  readonly accepted: queries.AcceptedMessage
  readonly template: UsableTemplate | undefined
  readonly rendered: RenderResult | undefined
  /** Made of the HTML the message brings. */
  readonly text: string | undefined
  readonly offer: Offer
  readonly suppressed: ReadonlySet<string>
  readonly provider: string | undefined
  readonly stream: Stream
}

function decide(known: Known): ProcessedRow {
  const { message } = known.accepted
  const { template, rendered, offer, provider } = known
  const base = {
    id: known.accepted.id,
    provider: null,
    template: template?.name ?? null,
    template_version: template?.version ?? null,
    partials: versionsOf(template),
    code: null,
    reason: null,
    recipient_domain: message.to[0]?.address.split('@')[1] ?? null,
    prepared: null,
  }
  const die = (code: string, reason: string): ProcessedRow => ({
    ...base,
    status: 'dead',
    code,
    reason: reason.slice(0, REASON_LENGTH),
  })

  const recipients = new Set(recipientsOf(known.accepted))
  const leftOut = [...recipients].filter((address) => known.suppressed.has(address))
  if (message.to.every(({ address }) => known.suppressed.has(address.toLowerCase()))) {
    return { ...base, status: 'suppressed', prepared: preparedOf({}, leftOut) }
  }
  if (message.template !== undefined) {
    if (template === undefined) return die('template_not_found', describeMissing(message.template))
    if (rendered?.ok === false) return die(rendered.code, explained(rendered))
    if (message.subject === undefined && rendered?.rendered.subject === undefined) {
      return die('no_subject', `Template ${template.name} has no subject and the message gives none.`)
    }
    const fault = originFault(message, template)
    if (fault !== undefined) return die('no_sender', fault)
  }
  if (provider === undefined) {
    return die(
      'no_provider',
      `Stream ${known.stream.name} routes to ${known.stream.route.join(', ')}, and no such provider exists.`,
    )
  }
  const derived = known.text === undefined ? {} : { text: known.text }
  const parts = rendered?.ok === true ? rendered.rendered : derived
  const lack = lackOf(known.stream, known.accepted, offer, bodiesOf(message, template, parts))
  if (lack !== undefined) return die(lack.code, lack.reason)
  const origin = template === undefined ? {} : originOf(message, template)
  const prepared = preparedOf({ ...parts, ...origin }, leftOut, offer.header)
  return { ...base, status: 'queued', provider, prepared }
}

/** Those that somebody wrote, and so can put right; an empty text only asks for none. */
function bodiesOf(message: Message, template: UsableTemplate | undefined, parts: Rendered): Bodies {
  const { html, text } = template === undefined ? message : parts
  const isWritten = template?.text !== null && text !== ''
  return { html, text: isWritten ? text : undefined }
}

type Origin = { readonly sender?: Address; readonly reply_to?: readonly Address[] }

/** Sender and reply_to of the template, where the message names none. Faults are ruled out before. */
function originOf(message: Message, { sender, reply_to: replyTo }: UsableTemplate): Origin {
  const from = message.from === undefined && sender !== null ? addressesOf([sender]) : []
  const replies = message.reply_to.length === 0 && replyTo !== null ? addressesOf(replyTo) : []
  return {
    ...(from[0] !== undefined && { sender: from[0] }),
    ...(replies.length > 0 && { reply_to: replies }),
  }
}

function addressesOf(texts: readonly string[]): Address[] {
  return texts.map(parseAddress).flatMap((parsed) => (parsed.ok ? [parsed.address] : []))
}

/** Why nobody can be named as the sender. The API checks addresses; what was written by SQL is checked here. */
function originFault(message: Message, template: UsableTemplate): string | undefined {
  const { name, sender, reply_to: replyTo } = template
  if (message.from === undefined && sender === null) {
    return `Template ${name} has no from and the message gives none; give one of them.`
  }
  const wanted = [
    ...(message.from === undefined && sender !== null ? [sender] : []),
    ...(message.reply_to.length === 0 ? (replyTo ?? []) : []),
  ]
  for (const text of wanted) {
    const parsed = parseAddress(text)
    if (!parsed.ok) return `The sender or reply_to of template ${name} is no address: ${parsed.reason}.`
  }
  return undefined
}

/** What the event says, so that a mail can be traced to all it was made of. */
function versionsOf(template: UsableTemplate | undefined): Readonly<Record<string, number>> | null {
  if (template === undefined || template.partials.length === 0) return null
  return Object.fromEntries(template.partials.map(({ name, version }) => [name, version]))
}

function preparedOf(
  parts: Rendered & Origin,
  leftOut: readonly string[],
  listUnsubscribe: string | null = null,
): ProcessedRow['prepared'] {
  if (Object.keys(parts).length === 0 && leftOut.length === 0 && listUnsubscribe === null) return null
  return {
    subject: parts.subject ?? null,
    html: parts.html ?? null,
    text: parts.text ?? null,
    left_out: leftOut.length > 0 ? leftOut : null,
    sender: parts.sender ?? null,
    reply_to: parts.reply_to ?? null,
    list_unsubscribe: listUnsubscribe,
  }
}

function describeMissing({ id, version }: TemplateReference): string {
  return version === undefined
    ? `No template ${id} is published. Publish it, then retry.`
    : `Template ${id} has no published version ${version}. Publish it, then retry.`
}

type ToRender = {
  readonly batch: readonly queries.AcceptedMessage[]
  readonly templates: Templates
  /** The variables that the stream adds. */
  readonly given: (accepted: queries.AcceptedMessage) => Readonly<Record<string, string>>
  readonly priority: number
}

async function render(
  renderer: RenderPool,
  { batch, templates, given, priority }: ToRender,
): Promise<{ rendered: Map<string, RenderResult>; deferred: string[] }> {
  const requests: RenderRequest[] = []
  for (const each of batch) {
    const { id, message } = each
    const template = message.template && templates(message.template)
    if (message.template === undefined || template === undefined) continue
    const source = sourceOf(template, message.subject === undefined)
    const variables = { ...message.template.variables, ...given(each) }
    requests.push({ id, template: source, variables, derivesText: true })
  }
  if (requests.length === 0) return { rendered: new Map(), deferred: [] }
  const { results, deferred } = await renderer.render(requests, priority)
  return { rendered: new Map(results.map((result) => [result.id, result])), deferred: [...deferred] }
}

/** Texts for messages that bring HTML and say nothing of a text; an empty one says that there shall be none. */
async function deriveTexts(
  renderer: RenderPool,
  batch: readonly queries.AcceptedMessage[],
  priority: number,
): Promise<ReadonlyMap<string, string | undefined>> {
  const wanted = batch.flatMap(({ id, message: { html, text } }) =>
    html !== undefined && text === undefined ? [{ id, html }] : [],
  )
  if (wanted.length === 0) return new Map()
  const htmls = wanted.map(({ html }) => html)
  const texts = await renderer.deriveTexts(htmls, priority)
  return new Map(wanted.map(({ id }, index) => [id, texts[index]]))
}
