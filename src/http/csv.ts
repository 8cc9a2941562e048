import { stringify } from 'csv-stringify/sync'

/**
 * What a spreadsheet runs as a formula, whatever it passes over before: white space, controls and what cannot be seen. The
 * last four are the same signs of East Asian keyboards.
 */
const FORMULA = /^[\s\p{Cc}\p{Cf}]*[=+\-@\uff1d\uff0b\uff0d\uff20]/u

/**
 * Rows as CSV (RFC 4180). Most of it is other people's text: a cell that would be a formula to the program that opens the
 * file gets an apostrophe before it.
 */
export function csvOf(
  rows: readonly object[],
  columns: readonly string[],
  { header = false }: { readonly header?: boolean } = {},
): string {
  return stringify([...rows], {
    header,
    columns: [...columns],
    // In German and French, say, a spreadsheet splits at semicolons.
    quoted_match: /[;\t]/,
    cast: { date: (value) => value.toISOString(), string: harmless },
  })
}

function harmless(text: string, { header }: { readonly header: boolean }): string {
  return !header && FORMULA.test(text) ? `'${text}` : text
}
