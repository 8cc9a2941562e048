/**
 * Rendering of templates, off the main thread and safe by construction. Takes in batches of templates with their data,
 * leaves behind for each message its rendered parts or the reason why not. A template may be written by anyone and its
 * data come from anyone: whatever they hold, a message ends within `hardStopMs` and a little, in bounded memory.
 *
 * There are two lanes of one thread each. It starts with the first work; that of suspects ends when there has been none for a
 * while. A template that was slow, was stopped or cost its thread's life is suspect for a while and renders in a lane with its
 * like; so are sources checked that nobody has rendered yet. Only that lane gives up a message on which its thread is stuck, and
 * after longer: on a crowded machine good ones are late as well. If a thread
 * dies, see `render-lane.ts`. If the process dies, nothing is lost: rendering has no effect but its result.
 */
import { hash } from 'node:crypto'
import {
  type CheckResult,
  type PreviewResult,
  type RenderBatch,
  type RenderFailure,
  RenderPoolError,
  type RenderRequest,
  type RenderResult,
  type TemplateSource,
} from './contract.ts'
import {
  MAX_DERIVED_FROM_CHARS,
  MAX_VARIABLES_CHARS,
  SOFT_STOP_MS,
  SUSPECT_KEPT_MS,
  SUSPECT_STOP_MS,
  THREAD_HEAP_MB,
} from './limits.ts'
import { RenderLane, type TemplateMessage } from './render-lane.ts'
import { Suspects } from './suspects.ts'
import { sizeOf, type TemplateSize, tooLarge } from './template-size.ts'
import type { Outcome } from './thread-messages.ts'

export type RenderPoolOptions = {
  /** Longest time on one message before its thread is killed; of a suspect template SUSPECT_STOP_MS, unless this is set. */
  readonly hardStopMs?: number
  /** A message slower than this makes its template suspect. */
  readonly slowMs?: number
  readonly suspectForMs?: number
  /** How long the thread of suspects is kept when it has nothing to do. */
  readonly suspectKeptMs?: number
  /** Each thread may fill this much; lower fails messages that are merely large. */
  readonly threadHeapMb?: number
  /** Milliseconds on a clock that never goes back. */
  readonly now?: () => number
}

export type RenderPool = {
  /**
   * Results in the order asked; see RenderBatch for `deferred`, which is empty when all in the batch are suspect, so
   * that asking again for those alone always ends. Rejects only with a RenderPoolError. Batches of a smaller
   * `priority` (0 to 9, as messages have it) go first, those that wait and those that have begun.
   */
  render(requests: readonly RenderRequest[], priority?: number): Promise<RenderBatch>
  /**
   * The text for each HTML, in their order; undefined where none can be made. All in one go, and never at the cost of a
   * message. Rejects only with a RenderPoolError.
   */
  deriveTexts(htmls: readonly string[], priority?: number): Promise<(string | undefined)[]>
  /** Parses without rendering. The source is not kept, so `key` may be anything. */
  check(source: TemplateSource): Promise<CheckResult>
  /** Renders once, beside sources that nobody has rendered yet. The source is not kept, so `key` may be anything. */
  preview(source: TemplateSource, variables: Readonly<Record<string, unknown>>): Promise<PreviewResult>
  /** Ends all threads; what is in flight is rejected. */
  stop(): Promise<void>
}

const USUAL_PRIORITY = 5
/** A person looks at a draft: before all mail. */
const SOMEBODY_WAITS = -1

/** Starts no thread until there is something to render. */
export function createRenderPool(options: RenderPoolOptions = {}): RenderPool {
  const { hardStopMs = 500, slowMs = 100, suspectForMs = 10 * 60_000 } = options
  const suspectStopMs = options.hardStopMs ?? SUSPECT_STOP_MS
  const { suspectKeptMs: keptMs = SUSPECT_KEPT_MS } = options
  const { threadHeapMb: heapMb = THREAD_HEAP_MB, now = () => performance.now() } = options
  const thread = { hardStopMs, slowMs, heapMb, softStopMs: Math.min(SOFT_STOP_MS, hardStopMs) }
  const patient = { ...thread, hardStopMs: suspectStopMs, keptMs }
  const suspects = new Suspects(suspectForMs, now)
  const textless = new Suspects(suspectForMs, now)
  const lanes = {
    common: new RenderLane({ ...thread, skipsSlow: true }, suspects, textless),
    suspect: new RenderLane({ ...patient, skipsSlow: false }, suspects, textless),
  }
  let stopped: RenderPoolError | undefined
  let checks = 0

  return {
    async render(requests, priority = USUAL_PRIORITY) {
      if (stopped !== undefined) throw stopped
      return await renderBatch(lanes, suspects, requests, priority)
    },
    async deriveTexts(htmls, priority = USUAL_PRIORITY) {
      if (stopped !== undefined) throw stopped
      return await deriveTexts(lanes.common, htmls, priority)
    },
    async check(source) {
      if (stopped !== undefined) throw stopped
      checks += 1
      return await checkSource(lanes.suspect, { ...source, key: `check ${checks}` })
    },
    async preview(source, variables) {
      if (stopped !== undefined) throw stopped
      checks += 1
      return await previewSource(lanes.suspect, { ...source, key: `preview ${checks}` }, variables)
    },
    async stop() {
      stopped ??= new RenderPoolError(
        'render_pool_stopped',
        'the render pool is stopped: the service is going down',
      )
      await Promise.all([lanes.common.stop(stopped), lanes.suspect.stop(stopped)])
    },
  }
}

type Lanes = { readonly common: RenderLane; readonly suspect: RenderLane }

async function renderBatch(
  lanes: Lanes,
  suspects: Suspects,
  requests: readonly RenderRequest[],
  priority: number,
): Promise<RenderBatch> {
  const prepared = prepareAll(requests)
  const ready = prepared.filter((message) => 'source' in message)
  const settled = await settle(lanes, suspects, ready, priority)

  const results: RenderResult[] = []
  const deferred: string[] = []
  requests.forEach(({ id }, index) => {
    const message = prepared[index]
    if (message === undefined) return
    const outcome = 'source' in message ? settled.get(message) : message
    if (outcome === undefined || 'skipped' in outcome) deferred.push(id)
    else if ('failure' in outcome) results.push({ id, ok: false, ...outcome.failure })
    else results.push({ id, ok: true, ...outcome })
  })
  return { results, deferred }
}

/** The outcomes of those that were tried. When all are suspect, or become so while they wait, all are tried. */
async function settle(
  lanes: Lanes,
  suspects: Suspects,
  messages: readonly TemplateMessage[],
  priority: number,
): Promise<Map<TemplateMessage, Outcome | undefined>> {
  const common = messages.filter(({ source }) => !suspects.has(source.key))
  const outcomes = common.length === 0 ? [] : await lanes.common.run(common, priority)
  if (!outcomes.every((outcome) => 'skipped' in outcome)) {
    return new Map(common.map((message, index) => [message, outcomes[index]]))
  }
  // One job each, so that suspects take turns.
  const alone = messages.map(async (message) => {
    const [outcome] = await lanes.suspect.run([message], priority)
    return [message, outcome] as const
  })
  return new Map(await Promise.all(alone))
}

/** HTML that occurs several times is converted once; a large one not at all. */
async function deriveTexts(
  lane: RenderLane,
  htmls: readonly string[],
  priority: number,
): Promise<(string | undefined)[]> {
  const wanted = new Set(htmls.filter((html) => html.length <= MAX_DERIVED_FROM_CHARS))
  if (wanted.size === 0) return htmls.map(() => undefined)
  const messages = [...wanted].map((html) => ({ key: `html ${hash('sha256', html)}`, html }))
  const outcomes = await lane.run(messages, priority)
  const texts = new Map<string, string | undefined>()
  for (const [index, { html }] of messages.entries()) {
    const outcome = outcomes[index]
    if (outcome !== undefined && 'rendered' in outcome) texts.set(html, outcome.rendered.text)
  }
  return htmls.map((html) => texts.get(html))
}

function prepareAll(
  requests: readonly RenderRequest[],
): (TemplateMessage | { readonly failure: RenderFailure })[] {
  const sizes = new Map<string, TemplateSize>()
  return requests.map(({ template, variables, derivesText = false }) => {
    const size = sizes.get(template.key) ?? sizeOf(template)
    sizes.set(template.key, size)
    const failure = tooLarge(template, size)
    if (failure !== undefined) return { failure }
    const json = toJson(variables)
    return typeof json === 'string' ? { source: template, size, variables: json, derivesText } : json
  })
}

function toJson(variables: Readonly<Record<string, unknown>>): string | { readonly failure: RenderFailure } {
  let json: string | undefined
  try {
    json = JSON.stringify(variables)
  } catch (error) {
    // A cycle, a BigInt, or data nested deeper than the stack.
    const why = error instanceof Error ? error.name : 'an error'
    return {
      failure: { code: 'variables_invalid', reason: `The variables cannot be written as JSON (${why})` },
    }
  }
  if (json === undefined || !json.startsWith('{')) {
    return { failure: { code: 'variables_invalid', reason: 'The variables are not a JSON object' } }
  }
  if (json.length <= MAX_VARIABLES_CHARS) return json
  const reason = `The variables are ${json.length} characters of JSON, more than ${MAX_VARIABLES_CHARS}`
  return { failure: { code: 'variables_too_large', reason } }
}

async function checkSource(lane: RenderLane, source: TemplateSource): Promise<CheckResult> {
  const size = sizeOf(source)
  const failure = tooLarge(source, size)
  if (failure !== undefined) return { ok: false, ...failure }
  const [outcome] = await lane.run([{ source, size, variables: null }], SOMEBODY_WAITS)
  return outcome !== undefined && 'failure' in outcome ? { ok: false, ...outcome.failure } : { ok: true }
}

async function previewSource(
  lane: RenderLane,
  template: TemplateSource,
  variables: Readonly<Record<string, unknown>>,
): Promise<PreviewResult> {
  const [message] = prepareAll([{ id: template.key, template, variables, derivesText: true }])
  if (message === undefined) throw new Error('one request was prepared to none')
  const outcome = 'source' in message ? (await lane.run([message], SOMEBODY_WAITS))[0] : message
  if (outcome === undefined || 'skipped' in outcome) throw new Error('the lane of suspects skips nothing')
  return 'failure' in outcome ? { ok: false, ...outcome.failure } : { ok: true, ...outcome }
}
