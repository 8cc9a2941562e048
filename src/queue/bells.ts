import { randomUUID } from 'node:crypto'
import type { Pool } from 'pg'
import type { Doorbell } from '../doorbell.ts'
import type { Log } from '../log.ts'

export const BELL_CHANNEL = 'sluice_bell'

/** Rings for other processes are gathered this long: NOTIFY serialises commits, so one serves many. */
const GATHER_MS = 20

/**
 * Wakes the loops that have new work: those of this process at once, those of other processes by NOTIFY.
 * A bell is a hint: a lost one costs at most the idle wait of the loop, never a message.
 */
export class Bells {
  readonly #doorbells = new Map<string, Set<Doorbell>>()
  readonly #process = randomUUID()
  readonly #pool: Pool
  readonly #log: Log
  readonly #toAnnounce = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  /** False spares the announcements while this process is the only one. */
  hasPeers = true

  constructor(pool: Pool, log: Log) {
    this.#pool = pool
    this.#log = log
  }

  /** `topic` is the name of the queue the loop empties. */
  attach(topic: string, doorbell: Doorbell): void {
    const set = this.#doorbells.get(topic) ?? new Set()
    set.add(doorbell)
    this.#doorbells.set(topic, set)
  }

  ring(topic: string): void {
    this.#ringHere(topic)
    if (!this.hasPeers) return
    this.#toAnnounce.add(topic)
    this.#timer ??= setTimeout(() => this.#announce(), GATHER_MS)
  }

  /** For what another process announced on `BELL_CHANNEL`. */
  hear(payload: string): void {
    const [process, ...topics] = payload.split(' ')
    if (process === this.#process) return
    for (const topic of topics) this.#ringHere(topic)
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #ringHere(topic: string): void {
    for (const doorbell of this.#doorbells.get(topic) ?? []) doorbell.ring()
  }

  #announce(): void {
    this.#timer = undefined
    const payload = [this.#process, ...this.#toAnnounce].join(' ')
    this.#toAnnounce.clear()
    this.#pool
      .query("/* bells.announce */ select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)", [
        BELL_CHANNEL,
        // A payload holds 8,000 bytes; more topics than that wait for their loops' own look.
        payload.slice(0, 7_900),
      ])
      .catch((error) => this.#log.debug({ error }, 'could not wake other processes'))
  }
}
