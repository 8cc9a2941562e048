import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import { addRefusals, type RefusalCount } from './delivery-queries.ts'
import type { Obstacle, Refusal } from './verify/proof.ts'

/** Whoever sends forgeries must not make us write as often: they are counted here and written once a second. */
const GATHER_MS = 1_000

/** Counts what was refused, by endpoint and reason; both are few, as only endpoints that exist are counted. */
export class Refusals {
  readonly #db: Database
  readonly #log: Log
  #counts = new Map<string, RefusalCount>()
  #timer: NodeJS.Timeout | undefined

  constructor(db: Database, log: Log) {
    this.#db = db
    this.#log = log
  }

  count(endpoint: string, reason: Refusal | Obstacle): void {
    const key = `${endpoint} ${reason}`
    const refused = (this.#counts.get(key)?.refused ?? 0) + 1
    this.#counts.set(key, { endpoint, reason, refused })
    this.#timer ??= setTimeout(() => void this.write(), GATHER_MS)
  }

  /** Never rejects: a count that cannot be written is in the log. */
  async write(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const counts = [...this.#counts.values()]
    this.#counts = new Map()
    if (counts.length === 0) return
    for (const { endpoint, reason, refused } of counts) {
      this.#log.warn({ endpoint, reason, refused }, 'webhook deliveries refused')
    }
    await addRefusals(this.#db, counts).catch((error: unknown) => {
      this.#log.warn({ error }, 'refused webhook deliveries could not be counted')
    })
  }
}
