import { compile, type Formatter } from 'html-to-text'
import { MAX_DERIVED_FROM_CHARS } from './limits.ts'

/** Far deeper than mail is nested, and shallow enough for the converter's recursion. */
const MAX_DEPTH = 300
/** Tags and comments, each a node in memory: ten times what a long mail has. */
const MAX_TAGS = 30_000
/** What identical HTML, as in a newsletter, is remembered for: its text, for so many characters of both. */
const MAX_KEPT_CHARS = 512 * 1_024

const altText: Formatter = (image, _walk, builder) => builder.addInline(image.attribs?.alt ?? '')

/** Cells of a row stand in one line, unless what is in them starts lines of its own. */
const cell: Formatter = (element, walk, builder) => {
  walk(element.children, builder)
  builder.addInline(' ')
}

const HEADING = { uppercase: false, leadingLineBreaks: 2, trailingLineBreaks: 2 }

/**
 * Links as `text [address]`, images as their alternative text, a row of a table in a line, no line broken that the HTML
 * does not break. What readers of the HTML do not see (the preview text some senders hide) is left out.
 */
const convert = compile({
  wordwrap: false,
  limits: { maxDepth: MAX_DEPTH, ellipsis: '' },
  formatters: { altText, cell },
  selectors: [
    { selector: 'a', options: { hideLinkHrefIfSameAsText: true } },
    { selector: 'img', format: 'altText' },
    { selector: 'tr', format: 'block', options: { leadingLineBreaks: 1, trailingLineBreaks: 1 } },
    { selector: 'td', format: 'cell' },
    { selector: 'th', format: 'cell' },
    ...['h1', 'h2', 'h3', 'h4', 'h5', 'h6'].map((selector) => ({ selector, options: HEADING })),
    { selector: 'hr', format: 'horizontalLine', options: { length: 20 } },
    ...['head', 'title', '[hidden]', '[style*="display:none"i]', '[style*="display: none"i]'].map(
      (selector) => ({ selector, format: 'skip' }),
    ),
  ],
})

const kept = new Map<string, string | undefined>()
let keptChars = 0

/**
 * The text part for a mail that has only HTML. Undefined where there is nothing to read, and for HTML that is too large
 * or that the converter does not get through: a mail without a text part is better than none.
 */
export function textFromHtml(html: string): string | undefined {
  if (html.length > MAX_DERIVED_FROM_CHARS || hasTooManyTags(html)) return undefined
  if (kept.has(html)) return kept.get(html)
  const text = derive(html)
  keep(html, text)
  return text
}

function hasTooManyTags(html: string): boolean {
  let tags = 0
  for (let at = html.indexOf('<'); at >= 0 && tags <= MAX_TAGS; at = html.indexOf('<', at + 1)) tags += 1
  return tags > MAX_TAGS
}

function derive(html: string): string | undefined {
  let text: string
  try {
    text = convert(html)
  } catch {
    // Whatever it is that it cannot read, nothing else depends on it.
    return undefined
  }
  const readable = text
    .replace(/[\u00a0\u2007\u202f]/g, ' ')
    // Zero-width padding that keeps mail programs from showing more of a mail in their lists.
    .replace(/[\u034f\u200b\u200c\u2060\ufeff]/g, '')
    .replace(/[ \t]+$/gm, '')
    .replace(/\n{3,}/g, '\n\n')
    .trim()
    .toWellFormed()
  const isUsable = readable !== '' && readable.length <= MAX_DERIVED_FROM_CHARS && !readable.includes('\0')
  return isUsable ? readable : undefined
}

function keep(html: string, text: string | undefined): void {
  kept.set(html, text)
  keptChars += html.length + (text?.length ?? 0)
  for (const [oldest, itsText] of kept) {
    if (keptChars <= MAX_KEPT_CHARS) return
    kept.delete(oldest)
    keptChars -= oldest.length + (itsText?.length ?? 0)
  }
}
