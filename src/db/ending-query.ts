import { Query } from 'pg'
import { driver, type Prepared, type Wire } from './wire.ts'

/**
 * The last statement of a transaction together with its commit: one round trip. Both end with a single Sync, and after an
 * error the server skips all before that: where the statement failed, nothing is committed.
 */
export class EndingQuery extends Query {
  #hasAnswered = false

  constructor(statement: Prepared, callback: (error: Error | null, result: unknown) => void) {
    super(statement, callback)
  }

  prepare(wire: Wire): void {
    const ending: Wire = Object.assign(Object.create(wire), {
      // Only behind a statement that is executed: one whose values cannot be sent must not be committed without.
      execute: (portal: object) => {
        wire.execute(portal)
        wire.parse({ text: 'commit' })
        wire.bind({})
        wire.execute({})
      },
    })
    driver.prepare.call(this, ending)
  }

  handleCommandComplete(message: { text: string }, wire: Wire): void {
    if (!this.#hasAnswered) driver.handleCommandComplete.call(this, message, wire)
    this.#hasAnswered = true
  }
}
