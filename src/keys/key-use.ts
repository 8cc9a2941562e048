import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'

/** How exact `last_used_at` is, and so how often a busy key costs a write. */
const COARSE_MS = 60_000
/** How long uses gather before one statement writes them. */
const GATHER_MS = 1_000
/** A use that is this old in the database is news: less than the above, since a write takes a moment itself. */
const STALE_S = 50

/**
 * Writes down when keys were last used, beside the requests and never in their way. If the process dies, or the
 * database is away, a use is not written: the next one is.
 */
export class KeyUse {
  readonly #db: Database
  readonly #log: Log
  readonly #now: () => number
  readonly #quietUntil = new Map<string, number>()
  readonly #pending = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(db: Database, log: Log, now: () => number = () => performance.now()) {
    this.#db = db
    this.#log = log
    this.#now = now
  }

  note(keyId: string): void {
    const now = this.#now()
    if ((this.#quietUntil.get(keyId) ?? 0) > now) return
    this.#quietUntil.set(keyId, now + COARSE_MS)
    this.#pending.add(keyId)
    this.#timer ??= setTimeout(() => void this.write(), GATHER_MS).unref()
  }

  /** Writes what has gathered; called once more before the connections close. */
  async write(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const ids = [...this.#pending]
    this.#pending.clear()
    if (ids.length === 0) return
    try {
      await sql`/* key.note_use */
        update mail.api_key k
        set last_used_at = clock_timestamp()
        where k.id in (
          -- A row that somebody holds is left alone: most likely another process writes the same.
          select u.id
          from mail.api_key u
          where u.id = any(${ids})
            and (u.last_used_at is null or u.last_used_at < clock_timestamp() - make_interval(secs => ${STALE_S}))
          for update skip locked
        )
      `.execute(this.#db)
    } catch (error) {
      for (const id of ids) this.#quietUntil.delete(id)
      this.#log.debug({ error }, 'the last use of keys could not be written')
    }
  }
}
