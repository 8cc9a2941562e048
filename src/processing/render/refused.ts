/**
 * What liquidjs 10.30.1 offers and we do not, each with the reason that a template's author is told.
 * All other built-in tags and filters were read: their loops end at a check of the clock or at the size of their
 * input, and their inputs are bounded by MAX_VALUE_CHARS.
 */

const GROWS_UNCOUNTED = 'its result is not counted against the memory limit and can double with every use'
const CHANGES_DATA = 'it changes the variables of the message; use "assign" with "plus" or "minus"'
const RUNS_TEXT =
  'it runs text, possibly from the variables, as an expression for every element; use a "for" with an "if"'
const JSON_UNBOUNDED = 'neither the names of properties nor the indentation are counted; use "json"'

export const REFUSED_TAGS: Readonly<Record<string, string>> = {
  capture: GROWS_UNCOUNTED,
  include: 'it shares its variables with the template around it; use "render" and name what it needs',
  tablerow: 'it writes markup of its own that mail programs show badly; use a "for"',
  increment: CHANGES_DATA,
  decrement: CHANGES_DATA,
}

export const REFUSED_FILTERS: Readonly<Record<string, string>> = {
  where_exp: RUNS_TEXT,
  reject_exp: RUNS_TEXT,
  group_by_exp: RUNS_TEXT,
  has_exp: RUNS_TEXT,
  find_exp: RUNS_TEXT,
  find_index_exp: RUNS_TEXT,
  inspect: JSON_UNBOUNDED,
  jsonify: JSON_UNBOUNDED,
}

/** Looking a name up is what the parser does first: refusing there fails the parse, with line and column. */
export function refuse(
  kind: 'tag' | 'filter',
  table: object,
  refused: Readonly<Record<string, string>>,
): void {
  for (const [name, why] of Object.entries(refused)) {
    const get = (): never => {
      throw new Error(`the ${kind} "${name}" is not available: ${why}`)
    }
    Object.defineProperty(table, name, { get })
  }
}
