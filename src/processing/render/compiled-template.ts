import { type Liquid, LiquidError, type Template } from 'liquidjs'
import type { RenderedMessage, RenderFailure, TemplateSource } from './contract.ts'
import { withFallbacks } from './declared-variables.ts'
import { type Engines, renderTemplates } from './engine.ts'
import { MAX_LIST_CHARS, MAX_OUTPUT_CHARS, MAX_REASON_CHARS } from './limits.ts'
import { MissingVariables } from './mail-context.ts'
import { CappedEmitter, RenderStop } from './meters.ts'
import { withPartials } from './partials.ts'
import { withPlainBraces } from './plain-braces.ts'

const PARTS = ['subject', 'html', 'text'] as const
type PartName = (typeof PARTS)[number]
type CompiledPart = { readonly name: PartName; readonly engine: Liquid; readonly templates: Template[] }

/** A template that does not parse is kept as its failure, so that each of its messages costs nothing. */
export type CompiledTemplate =
  | { readonly source: TemplateSource; readonly parts: readonly CompiledPart[] }
  | { readonly failure: RenderFailure }

export function compile(engines: Engines, source: TemplateSource): CompiledTemplate {
  const parts: CompiledPart[] = []
  const escaped = withPartials(engines.escaped, source, 'html')
  const plain = withPartials(engines.plain, source, 'text')
  for (const name of PARTS) {
    const text = source[name]
    if (text === null) continue
    const engine = name === 'html' ? escaped : plain
    try {
      parts.push({ name, engine, templates: engine.parse(withPlainBraces(text)) })
    } catch (error) {
      return { failure: failureOf(error, name, 'template_syntax') }
    }
  }
  return { source, parts }
}

/** Renders every part, or tells what went wrong in the first that failed. Never throws. */
export function renderMessage(
  template: CompiledTemplate,
  variablesJson: string,
  clock: { readonly startedCpuMs: number; readonly softStopMs: number },
): RenderedMessage | { readonly failure: RenderFailure } {
  if ('failure' in template) return template
  const { onMissing, variables: declared = [] } = template.source
  const missing = onMissing === undefined ? undefined : new MissingVariables()
  let variables = JSON.parse(variablesJson) as Record<string, unknown>
  try {
    variables = withFallbacks(variables, declared, missing, onMissing === 'fail')
  } catch (error) {
    return { failure: failureOf(error, 'variables', 'template_failed') }
  }
  const rendered: { -readonly [part in PartName]?: string } = {}
  for (const { name, engine, templates } of template.parts) {
    try {
      const emitter = new CappedEmitter(MAX_OUTPUT_CHARS[name])
      renderTemplates(engine, templates, variables, emitter, missing, clock)
      rendered[name] = mailable(name, emitter.buffer)
    } catch (error) {
      return { failure: failureOf(error, name, 'template_failed') }
    }
  }
  if (missing === undefined) return { rendered }
  const { names } = missing
  return onMissing === 'fail' && names.length > 0 ? { failure: lacking(names) } : { rendered, missing: names }
}

function lacking(names: readonly string[]): RenderFailure {
  return {
    code: 'template_missing_variable',
    reason: `The template is strict, and the message gives no ${names.join(', ')}`
      .replace(/\p{Cc}+/gu, ' ')
      .slice(0, MAX_LIST_CHARS)
      .toWellFormed(),
  }
}

/** Filters can cut a character in half (made whole here, as U+FFFD) and decode a NUL, which no database text holds. */
function mailable(part: PartName, output: string): string {
  const text = output.toWellFormed()
  if (text.includes('\0')) throw new RenderStop('output_invalid', 'it contains a NUL character')
  if (part !== 'subject') return text
  const subject = text.trim()
  if (/[\p{Cc}\u2028\u2029]/u.test(subject)) {
    throw new RenderStop('output_invalid', 'it contains a line break or a control character')
  }
  return subject
}

/** The engine's messages end in the line and column, and quote at most a few characters of the source. */
function failureOf(
  error: unknown,
  part: PartName | 'variables',
  code: 'template_syntax' | 'template_failed',
): RenderFailure {
  const stop = stopWithin(error)
  const message = error instanceof Error ? error.message : String(error)
  const verb = (stop?.code ?? code) === 'template_syntax' ? 'does not parse' : 'cannot be rendered'
  return {
    code: stop?.code ?? code,
    reason: `The ${part} ${verb}: ${message}`
      .toWellFormed()
      .replace(/\p{Cc}+/gu, ' ')
      .slice(0, MAX_REASON_CHARS),
  }
}

function stopWithin(error: unknown): RenderStop | undefined {
  let inner = error
  while (LiquidError.is(inner)) inner = inner.originalError
  return inner instanceof RenderStop ? inner : undefined
}
