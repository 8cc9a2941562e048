import { reached } from '../crash-point.ts'
import { isDatabaseUnavailable } from '../db/connection-error.ts'
import type { Database } from '../db/pool.ts'
import { unavailable } from './acceptance-errors.ts'
import * as queries from './queries.ts'

const FLUSH_ROWS = 500
/** One statement is one string: a burst of large mail must not grow it past what can be held. */
export const FLUSH_CHARS = 16 * 1_024 * 1_024

type Pending = {
  readonly row: queries.IntakeRow
  readonly appended: PromiseWithResolvers<void>
}

export type AppenderOptions = {
  readonly db: Database
  /** The process whose mover is to take the rows. */
  readonly process: string
  readonly onAppended: () => void
}

/** Appends rows to the intake, one statement at a time: whatever arrives meanwhile goes with the next, so batches grow with the load. */
export class Appender {
  readonly #options: AppenderOptions
  readonly #pending: Pending[] = []
  #flushing = false

  constructor(options: AppenderOptions) {
    this.#options = options
  }

  /** Rejects with an ApiError of 503 when the database is away: then it is not known whether the row was appended. */
  append(row: queries.IntakeRow): Promise<void> {
    const pending: Pending = { row, appended: Promise.withResolvers() }
    this.#pending.push(pending)
    if (!this.#flushing) void this.#flush()
    return pending.appended.promise
  }

  /** True when the row had not left for the database: nobody will send it. */
  withdraw(row: queries.IntakeRow): boolean {
    const index = this.#pending.findIndex((each) => each.row === row)
    if (index >= 0) this.#pending.splice(index, 1)
    return index >= 0
  }

  async #flush(): Promise<void> {
    const { db, process, onAppended } = this.#options
    this.#flushing = true
    while (this.#pending.length > 0) {
      const batch = this.#pending.splice(0, this.#countForFlush())
      try {
        await queries.appendToIntake(
          db,
          batch.map((each) => each.row),
          process,
        )
        reached('intake.appended')
        onAppended()
        for (const each of batch) each.appended.resolve()
      } catch (error) {
        const refusal = isDatabaseUnavailable(error) ? unavailable(error) : error
        for (const each of batch) each.appended.reject(refusal)
      }
    }
    this.#flushing = false
  }

  #countForFlush(): number {
    let chars = 0
    const overfull = this.#pending.slice(0, FLUSH_ROWS).findIndex(({ row }) => {
      chars += row.message.length
      return chars > FLUSH_CHARS
    })
    return overfull === -1 ? FLUSH_ROWS : Math.max(overfull, 1)
  }
}
