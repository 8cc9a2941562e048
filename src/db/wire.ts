import { Query } from 'pg'

/** A statement that the server keeps the plan of, by its name. */
export type Prepared = { readonly name: string; readonly text: string; readonly values: unknown[] }

/** What the driver's own classes have and their types do not tell. */
export type Wire = {
  readonly submittedNamedStatements: Record<string, string>
  parse(statement: { name?: string; text: string }): void
  bind(portal: object): void
  execute(portal: object): void
}

type QueryInternals = {
  hasBeenParsed(wire: Wire): boolean
  prepare(wire: Wire): void
  handleCommandComplete(message: { text: string }, wire: Wire): void
}

export const driver = Query.prototype as unknown as QueryInternals
