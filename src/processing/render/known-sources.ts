import type { TemplateSource } from './contract.ts'
import { KEPT_MARKUP_CHARS, KEPT_SOURCE_CHARS, KEPT_TEMPLATES, MAX_POST_CHARS } from './limits.ts'
import type { TemplateSize } from './template-size.ts'

type Wanted = { readonly source: TemplateSource; readonly size: TemplateSize }

/**
 * What one thread holds compiled, least recently used first. Kept on this side so that a source is sent once and
 * afterwards named by its key alone, and so that its thread can never be asked to hold too much.
 */
export class KnownSources {
  readonly #sizes = new Map<string, TemplateSize>()
  #chars = 0
  #markupChars = 0

  /** Marks the template as used. Returns it when the thread has to be sent it, undefined when the thread has it. */
  use({ source, size }: Wanted): TemplateSource | undefined {
    const known = this.#sizes.get(source.key)
    if (known !== undefined) {
      this.#sizes.delete(source.key)
      this.#sizes.set(source.key, known)
      return undefined
    }
    this.#sizes.set(source.key, size)
    this.#chars += size.chars
    this.#markupChars += size.markupChars
    return source
  }

  /** Drops the least recently used until the rest fits, but none in `keep`. Returns the keys the thread must drop. */
  trim(keep: ReadonlySet<string>): string[] {
    const dropped: string[] = []
    for (const [key, size] of this.#sizes) {
      if (fits(this.#sizes.size, this.#chars, this.#markupChars)) break
      if (keep.has(key)) continue
      this.#sizes.delete(key)
      this.#chars -= size.chars
      this.#markupChars -= size.markupChars
      dropped.push(key)
    }
    return dropped
  }
}

/** Counts what one post carries: its templates must fit into a thread at once, and its variables into its heap. */
export class PostSize {
  readonly keys = new Set<string>()
  #chars = 0
  #markupChars = 0
  #variablesChars = 0

  /** As `admit`, for HTML that text is made of: it comes with each message, and is not kept. */
  admitHtml(html: string): boolean {
    const isFirst = this.keys.size === 0 && this.#variablesChars === 0
    if (this.#variablesChars + html.length > MAX_POST_CHARS && !isFirst) return false
    this.#variablesChars += html.length
    return true
  }

  /** Whether the message still fits; if so it is counted. The first always fits. */
  admit({ source, size, variables }: Wanted & { readonly variables: string | null }): boolean {
    const isNew = !this.keys.has(source.key)
    const chars = this.#chars + (isNew ? size.chars : 0)
    const markupChars = this.#markupChars + (isNew ? size.markupChars : 0)
    const variablesChars = this.#variablesChars + (variables?.length ?? 0)
    const templates = this.keys.size + (isNew ? 1 : 0)
    const admitted = variablesChars <= MAX_POST_CHARS && fits(templates, chars, markupChars)
    if (!admitted && (this.keys.size > 0 || this.#variablesChars > 0)) return false
    this.keys.add(source.key)
    this.#chars = chars
    this.#markupChars = markupChars
    this.#variablesChars = variablesChars
    return true
  }
}

function fits(templates: number, chars: number, markupChars: number): boolean {
  return templates <= KEPT_TEMPLATES && chars <= KEPT_SOURCE_CHARS && markupChars <= KEPT_MARKUP_CHARS
}
