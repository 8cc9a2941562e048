import { sql } from 'kysely'
import type { Database } from './db/pool.ts'

/** Milliseconds since the epoch. */
export type Clock = { now(): number }

/** This machine's own, where nothing depends on it. */
export const MACHINE_CLOCK: Clock = { now: () => Date.now() }

/**
 * The time as the database has it: the one clock that all processes share. A process's own may be an hour off, or be set while
 * it runs; mail must not go out early or late for that, nor its id end up in another day. Between looks it runs on the
 * machine's monotonic clock, which nobody sets.
 */
export class DatabaseClock implements Clock {
  readonly #db: Database
  readonly #elapsedMs: () => number
  /** The database's time less our elapsed time. */
  #ahead: number | undefined

  private constructor(db: Database, elapsedMs: () => number) {
    this.#db = db
    this.#elapsedMs = elapsedMs
  }

  static async open(db: Database, elapsedMs: () => number = () => performance.now()): Promise<DatabaseClock> {
    const clock = new DatabaseClock(db, elapsedMs)
    await clock.look()
    return clock
  }

  now(): number {
    return Math.floor(this.#elapsedMs() + (this.#ahead ?? 0))
  }

  /**
   * The database read its clock somewhere between the question and the answer. What is believed stays as it is while it lies
   * between the two, so that a slow answer moves nothing; drift, a changed clock over there, or a suspended machine does.
   */
  async look(): Promise<void> {
    const before = this.#elapsedMs()
    const { rows } = await sql<{ ms: number }>`/* clock.look */
      select extract(epoch from clock_timestamp())::double precision * 1000 as ms
    `.execute(this.#db)
    const after = this.#elapsedMs()
    const there = rows[0]?.ms ?? before
    const [least, most] = [there - after, there - before]
    this.#ahead = Math.min(Math.max(this.#ahead ?? (least + most) / 2, least), most)
  }
}
