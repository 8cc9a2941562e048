import type { RenderFailure, TemplateSource } from './contract.ts'
import { MAX_MARKUP_CHARS, MAX_PART_CHARS, MAX_SOURCE_CHARS } from './limits.ts'

/** `markupChars` are those between Liquid's delimiters: they, not the text around them, make a syntax tree large. */
export type TemplateSize = { readonly chars: number; readonly markupChars: number }

export function sizeOf(source: TemplateSource): TemplateSize {
  const { subject, html, text, partials = [] } = source
  const used = partials === 'unchecked' ? [] : partials.flatMap((partial) => [partial.html, partial.text])
  const parts = [subject, html, text, ...used].map((part) => part ?? '')
  return {
    chars: parts.reduce((sum, part) => sum + part.length, 0),
    markupChars: parts.reduce((sum, part) => sum + markupCharsOf(part), 0),
  }
}

/** Checked before a source goes to a thread: parsing needs memory in proportion, and the thread may not run out of it. */
export function tooLarge(source: TemplateSource, size: TemplateSize): RenderFailure | undefined {
  for (const part of ['subject', 'html', 'text'] as const) {
    if ((source[part]?.length ?? 0) > MAX_PART_CHARS) {
      return { code: 'template_too_large', reason: `The ${part} is longer than ${MAX_PART_CHARS} characters` }
    }
  }
  if (size.chars > MAX_SOURCE_CHARS) {
    const reason = `The template and those it uses are longer than ${MAX_SOURCE_CHARS} characters`
    return { code: 'template_too_large', reason }
  }
  if (size.markupChars <= MAX_MARKUP_CHARS) return undefined
  const reason = `The template, with those it uses, holds more than ${MAX_MARKUP_CHARS} characters of Liquid; move what repeats into a loop`
  return { code: 'template_too_large', reason }
}

/** Reads each character once, also when nothing is closed. */
function markupCharsOf(text: string): number {
  const opener = /\{[{%]/g
  let markup = 0
  for (let open = opener.exec(text); open !== null; open = opener.exec(text)) {
    const close = text.indexOf(open[0] === '{{' ? '}}' : '%}', open.index + 2)
    const end = close === -1 ? text.length : close + 2
    markup += end - open.index
    opener.lastIndex = end
  }
  return markup
}
