import type { Provider, Stream } from '../catalog.ts'
import type { Database } from '../db/pool.ts'
import type { Address, TemplateReference } from '../message.ts'
import * as queries from './queries.ts'
import type { RenderRequest, RenderResult } from './render/contract.ts'
import type { RenderPool } from './render/render-pool.ts'

/** What processing decides for each message of a batch, before anything is written. */
export type Prepared = {
  readonly rows: queries.ProcessedRow[]
  /** Messages whose template is known to hurt: they are processed again, each alone. */
  readonly deferred: string[]
}

export type PrepareDeps = {
  readonly db: Database
  readonly renderer: RenderPool
}

type Templates = (reference: TemplateReference) => queries.TemplateVersion | undefined

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i
const REASON_LENGTH = 2_000

/**
 * Looks up templates and suppressed addresses once for the whole batch, renders, and routes. Reads only.
 * Throws when the database is away: suppression fails closed.
 */
export async function prepareBatch(
  deps: PrepareDeps,
  stream: Stream,
  providers: ReadonlyMap<string, Provider>,
  batch: readonly queries.AcceptedMessage[],
): Promise<Prepared> {
  const [templates, suppressed] = await Promise.all([
    findTemplates(deps.db, batch),
    queries.findSuppressed(deps.db, stream.name, [...new Set(batch.flatMap(recipientsOf))]),
  ])
  const { rendered, deferred } = await render(deps.renderer, batch, templates)
  const provider = stream.route.find((name) => providers.has(name))
  const later = new Set(deferred)
  const rows = batch
    .filter((each) => !later.has(each.id))
    .map((each) => {
      const template = each.message.template && templates(each.message.template)
      return decide({
        accepted: each,
        template,
        rendered: rendered.get(each.id),
        suppressed,
        provider,
        stream,
      })
    })
  return { rows, deferred }
}

type Known = {
  readonly accepted: queries.AcceptedMessage
  readonly template: queries.TemplateVersion | undefined
  readonly rendered: RenderResult | undefined
  readonly suppressed: ReadonlySet<string>
  readonly provider: string | undefined
  readonly stream: Stream
}

function decide(known: Known): queries.ProcessedRow {
  const { message } = known.accepted
  const { template, rendered, provider } = known
  const base = {
    id: known.accepted.id,
    provider: null,
    template: template?.name ?? null,
    template_version: template?.version ?? null,
    code: null,
    reason: null,
    recipient_domain: message.to[0]?.address.split('@')[1] ?? null,
    prepared: null,
  }
  const die = (code: string, reason: string): queries.ProcessedRow => ({
    ...base,
    status: 'dead',
    code,
    reason: reason.slice(0, REASON_LENGTH),
  })

  const recipients = new Set(recipientsOf(known.accepted))
  const leftOut = [...recipients].filter((address) => known.suppressed.has(address))
  if (message.to.every(({ address }) => known.suppressed.has(address.toLowerCase()))) {
    return { ...base, status: 'suppressed', prepared: preparedOf(undefined, leftOut) }
  }
  if (message.template !== undefined) {
    if (template === undefined) return die('template_not_found', describeMissing(message.template))
    if (rendered?.ok === false) return die(rendered.code, rendered.reason)
    if (message.subject === undefined && rendered?.rendered.subject === undefined) {
      return die('no_subject', `Template ${template.name} has no subject and the message gives none.`)
    }
  }
  if (provider === undefined) {
    return die(
      'no_provider',
      `Stream ${known.stream.name} routes to ${known.stream.route.join(', ')}, and no such provider exists.`,
    )
  }
  const parts = rendered?.ok === true ? rendered.rendered : undefined
  return { ...base, status: 'queued', provider, prepared: preparedOf(parts, leftOut) }
}

function preparedOf(
  parts: { subject?: string; html?: string; text?: string } | undefined,
  leftOut: readonly string[],
): queries.ProcessedRow['prepared'] {
  if (parts === undefined && leftOut.length === 0) return null
  return {
    subject: parts?.subject ?? null,
    html: parts?.html ?? null,
    text: parts?.text ?? null,
    left_out: leftOut.length > 0 ? leftOut : null,
  }
}

function describeMissing({ id, version }: TemplateReference): string {
  return version === undefined
    ? `No template ${id} is published. Publish it, then retry.`
    : `Template ${id} has no published version ${version}. Publish it, then retry.`
}

function recipientsOf({ message }: queries.AcceptedMessage): string[] {
  return [message.to, message.cc, message.bcc].flatMap((list: readonly Address[]) =>
    list.map(({ address }) => address.toLowerCase()),
  )
}

async function findTemplates(db: Database, batch: readonly queries.AcceptedMessage[]): Promise<Templates> {
  const wanted = new Map<string, queries.WantedTemplate>()
  for (const { message } of batch) {
    if (message.template === undefined) continue
    const { id: reference, version = null } = message.template
    wanted.set(keyOf(reference, version), { reference, version, id: UUID.test(reference) ? reference : null })
  }
  if (wanted.size === 0) return () => undefined
  const rows = await queries.findTemplates(db, [...wanted.values()])
  const found = new Map(rows.map((row) => [keyOf(row.reference, row.wanted_version), row]))
  return ({ id, version = null }) => found.get(keyOf(id, version))
}

function keyOf(reference: string, version: number | null): string {
  return `${version ?? 'latest'} ${reference}`
}

async function render(
  renderer: RenderPool,
  batch: readonly queries.AcceptedMessage[],
  templates: Templates,
): Promise<{ rendered: Map<string, RenderResult>; deferred: string[] }> {
  const requests: RenderRequest[] = []
  for (const { id, message } of batch) {
    const template = message.template && templates(message.template)
    if (message.template === undefined || template === undefined) continue
    // A subject the message brings wins: the template's own is not rendered for nothing.
    const ownSubject = message.subject === undefined
    requests.push({
      id,
      template: {
        key: `${template.id}@${template.version}${ownSubject ? '' : ' without subject'}`,
        subject: ownSubject ? template.subject : null,
        html: template.html,
        text: template.text,
      },
      variables: message.template.variables,
    })
  }
  if (requests.length === 0) return { rendered: new Map(), deferred: [] }
  const { results, deferred } = await renderer.render(requests)
  return { rendered: new Map(results.map((result) => [result.id, result])), deferred: [...deferred] }
}
