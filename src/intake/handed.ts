import type { Clock } from '../database-clock.ts'
import type { IntakeRow, TakenRow } from './queries.ts'

type Waiting = { readonly row: IntakeRow; readonly receivedAt: Date }

/**
 * Mail whose callers wait in this process for a durable answer. It goes to the mover from hand to hand, as a row at a door would
 * only be written, read and deleted again: if the process dies before the mover's commit, nobody was told anything.
 */
export class Handed {
  #waiting: Waiting[] = []
  readonly #clock: Clock

  constructor(clock: Clock) {
    this.#clock = clock
  }

  add(row: IntakeRow): void {
    this.#waiting.push({ row, receivedAt: new Date(this.#clock.now()) })
  }

  /** True when nobody had taken it: it will not be sent. */
  withdraw(row: IntakeRow): boolean {
    const index = this.#waiting.findIndex((each) => each.row === row)
    if (index >= 0) this.#waiting.splice(index, 1)
    return index >= 0
  }

  /** The next ones, urgent first: so many at most, and of about so many characters, but always at least one. */
  take(rows: number, chars: number): TakenRow[] {
    this.#waiting.sort((a, b) => a.row.priority - b.row.priority)
    let charsSoFar = 0
    const overfull = this.#waiting.slice(0, rows).findIndex(({ row }) => {
      charsSoFar += row.message.length
      return charsSoFar > chars
    })
    return this.#waiting.splice(0, overfull === -1 ? rows : Math.max(overfull, 1)).map(takenRow)
  }
}

function takenRow({ row, receivedAt }: Waiting): TakenRow {
  return {
    id: row.id,
    seq: null,
    received_at: receivedAt,
    priority: row.priority,
    stream: row.stream,
    idempotency_key: row.idempotencyKey,
    source: row.source,
    message: row.message,
    is_awaited: true,
    rank: row.priority,
  }
}
