import { Query } from 'pg'
import { driver, type Prepared, type Wire } from './wire.ts'

/**
 * The first statement of a transaction together with its `begin`: one round trip. Both end with a single Sync, and after
 * an error the server skips all before that: without its `begin` the statement does not run, which would be outside of any
 * transaction.
 */
export class BeginningQuery extends Query {
  readonly #statement: Prepared
  #hasBegun = false

  constructor(statement: Prepared, callback: (error: Error | null, result: unknown) => void) {
    super(statement, callback)
    this.#statement = statement
  }

  prepare(wire: Wire): void {
    const { name, text } = this.#statement
    // Before `begin`: the driver takes the first answer to any parse for this statement's.
    if (!driver.hasBeenParsed.call(this, wire)) {
      wire.parse({ name, text })
      wire.submittedNamedStatements[name] = text
    }
    wire.parse({ text: 'begin' })
    wire.bind({})
    wire.execute({})
    driver.prepare.call(this, wire)
  }

  handleCommandComplete(message: { text: string }, wire: Wire): void {
    if (this.#hasBegun) driver.handleCommandComplete.call(this, message, wire)
    this.#hasBegun = true
  }
}
