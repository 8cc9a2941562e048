/**
 * Whether each body shows these words. Compared by letters and digits alone: an address stands in one line or in
 * several, with commas or without.
 */
export function showsWords(
  bodies: { readonly html: string | undefined; readonly text: string | undefined },
  words: string,
): boolean {
  const wanted = lettersOf(words)
  const shown = [
    ...(bodies.html === undefined ? [] : [lettersOf(shownText(bodies.html))]),
    ...(bodies.text === undefined ? [] : [lettersOf(bodies.text)]),
  ]
  return shown.length > 0 && shown.every((letters) => letters.includes(wanted))
}

function lettersOf(text: string): string {
  return text
    .normalize('NFKC')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, '')
}

/** Where these begin, nothing is shown until they end. */
const UNSHOWN = [
  ['<!--', '-->'],
  ['<style', '</style'],
  ['<script', '</script'],
  ['<title', '</title'],
] as const

/** The text between the tags, in one pass: every search goes on where the last one ended. */
function shownText(html: string): string {
  const lower = html.toLowerCase()
  const texts: string[] = []
  let at = 0
  while (at < lower.length) {
    const tag = lower.indexOf('<', at)
    texts.push(lower.slice(at, tag < 0 ? undefined : tag))
    at = tag < 0 ? lower.length : endOfMarkup(lower, tag)
  }
  return texts.join('').replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|([a-z]{2,6}));/g, decoded)
}

function endOfMarkup(html: string, start: number): number {
  const unshown = UNSHOWN.find(([opening]) => html.startsWith(opening, start))
  const [, ending] = unshown ?? ['<', '>']
  const end = html.indexOf(ending, start)
  return end < 0 ? html.length : end + ending.length
}

/** Named characters that are neither letters nor digits do not count; the others are rarely written so. */
const NOT_LETTERS = /^(?:amp|lt|gt|quot|apos|nbsp|middot|bull|ndash|mdash|copy)$/

function decoded(entity: string, decimal?: string, hexadecimal?: string, name?: string): string {
  if (name !== undefined) return NOT_LETTERS.test(name) ? ' ' : entity
  const point = decimal === undefined ? Number.parseInt(hexadecimal ?? '', 16) : Number(decimal)
  return point <= 0x10ffff ? String.fromCodePoint(point) : ' '
}
