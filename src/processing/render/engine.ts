import { Liquid, type Template } from 'liquidjs'
import { boundRanges } from './bounded-ranges.ts'
import { MAX_PART_CHARS } from './limits.ts'
import { adaptExpressions, MailContext, type MissingVariables } from './mail-context.ts'
import {
  builtinHandler,
  escapedHtml,
  type FilterScope,
  type Handler,
  registerHtmlFilters,
  registerMailFilters,
} from './mail-filters.ts'
import { assertBounded, type CappedEmitter, clockMeter, RenderStop, workMeter, written } from './meters.ts'
import { registerPartialTags } from './partial-tags.ts'
import { REFUSED_FILTERS, REFUSED_TAGS, refuse } from './refused.ts'
import { runToEnd } from './run-to-end.ts'

/** `escaped` is for HTML; subjects and text are written as they are. */
export type Engines = { readonly escaped: Liquid; readonly plain: Liquid }

/**
 * Liquid without files, prototypes, or values larger than MAX_VALUE_CHARS. Its limits are cooperative: they catch what
 * is common and cheap to catch. The thread around it, which can be killed, is the limit that always holds.
 */
export function createEngines(): Engines {
  return { escaped: createEngine(true), plain: createEngine(false) }
}

function createEngine(escapeHtml: boolean): Liquid {
  const engine = new Liquid({
    ownPropertyOnly: true,
    templates: {},
    dynamicPartials: false,
    strictFilters: true,
    strictVariables: false,
    parseLimit: MAX_PART_CHARS,
    // The same mail on every machine, whatever its locale and zone; a time that names its zone is shown in it.
    locale: 'en-US',
    timezoneOffset: 0,
    preserveTimezones: true,
    ...(escapeHtml ? { outputEscape: escapedHtml } : {}),
  })
  registerMailFilters(engine)
  if (escapeHtml) registerHtmlFilters(engine)
  boundPropertyPaths(engine)
  boundFilterResults(engine)
  boundRanges(engine)
  adaptExpressions()
  registerPartialTags(engine)
  refuse('tag', engine.tags, REFUSED_TAGS)
  refuse('filter', engine.filters, REFUSED_FILTERS)
  return engine
}

/** These parse the name of a property as Liquid while they render, and that text may come from the variables. */
const PROPERTY_FILTERS = ['where', 'reject', 'group_by', 'has', 'find', 'find_index'] as const
const PLAIN_PATH = /^[\p{L}\p{N}_.-]{0,200}$/u

function boundPropertyPaths(engine: Liquid): void {
  for (const name of PROPERTY_FILTERS) {
    const handler = builtinHandler(name)
    engine.registerFilter(
      name,
      function (this: FilterScope, value: unknown, property: unknown, ...args: unknown[]) {
        if (!PLAIN_PATH.test(written(property))) {
          throw new RenderStop(
            'template_failed',
            `"${name}" takes a property such as "price" or "price.amount"`,
          )
        }
        return handler.call(this, value, property, ...args)
      },
    )
  }
}

/**
 * Filters are the only way a template makes new values (ranges are counted, and `capture` is refused), so with every
 * result bounded here, every value is: even those the engine turns into strings unasked, to compare or to index.
 */
function boundFilterResults(engine: Liquid): void {
  for (const [name, filter] of Object.entries(engine.filters)) {
    const handler: Handler = typeof filter === 'function' ? filter : filter.handler
    const raw = typeof filter === 'function' ? false : filter.raw
    engine.registerFilter(name, { raw, handler: withBoundedResult(handler) })
  }
}

function withBoundedResult(handler: Handler): Handler {
  return function (this: FilterScope, value: unknown, ...args: unknown[]) {
    // Some built-in filters are generators. Their waits are all on the engine itself, so they run to the end here.
    const result: unknown = runToEnd(handler.call(this, value, ...args))
    assertBounded(result)
    if (typeof result === 'string') this.context.memoryLimit.use(result.length)
    return result
  }
}

/** Renders into `emitter`. Each part has its own work meter; the clock is the message's. */
export function renderTemplates(
  engine: Liquid,
  templates: Template[],
  variables: object,
  emitter: CappedEmitter,
  missing: MissingVariables | undefined,
  clock: { readonly startedCpuMs: number; readonly softStopMs: number },
): void {
  const meters = {
    memoryLimit: workMeter(),
    renderLimit: clockMeter(clock.startedCpuMs, clock.softStopMs),
    liquid: engine,
  }
  // Said to the context alone: conditions ask leniently, and `assign` (which looks at the engine) does not.
  const options = missing === undefined ? engine.options : { ...engine.options, lenientIf: true }
  const context = new MailContext(missing, variables, options, { sync: true }, meters)
  runToEnd(engine.renderer.renderTemplates(templates, context, emitter))
}
