import type { Catalog } from '../catalog.ts'
import type { Doorbell } from '../doorbell.ts'
import { bellOf, type Processable } from './processing-jobs.ts'

/** More than these are a stream, and go faster in the batches of the queues. */
export const MOST_HANDED = 10

/** An accepted message as it was stored: what processing would read of it. */
export type StoredMessage = Processable & {
  readonly source: string
  /** As JSON text: of a sensitive one only what is not secret. */
  readonly message: string
  /** Of a sensitive one: the rest. */
  readonly sealed: string | null
}

/** A processing job that was stored as claimed by this worker, with all that there is to read of it. */
export type HandedJob = {
  readonly id: string
  readonly worker: number
  readonly messages: readonly StoredMessage[]
}

/**
 * From the mover to processing within one process, past the queue: where few messages come to a lane that has nothing to do, their job is
 * stored as claimed for it, and is neither looked for, nor claimed, nor read again. Such a claim is a lease: when it is not ended in time, as when
 * the answer to the commit was lost and nobody here knows of it, the job goes back to its queue, also from a worker that lives.
 */
export class Handover {
  readonly #seats = new Map<string, Seat>()

  /** `topic`: the bell of the lane. */
  attach(topic: string, seat: Seat): void {
    this.#seats.set(topic, seat)
  }

  /** The seat of the lane that these are for, kept for them until they are given to it; undefined when they better go by the queue. */
  reserve(catalog: Catalog, messages: readonly Processable[]): Seat | undefined {
    const [first] = messages
    if (first === undefined || messages.length > MOST_HANDED) return undefined
    // One job.
    if (messages.some(({ stream, priority }) => stream !== first.stream || priority !== first.priority)) {
      return undefined
    }
    const seat = this.#seats.get(bellOf(catalog, first))
    return seat?.reserve() ? seat : undefined
  }
}

/** Where a lane that has nothing to do is given a job. */
export class Seat {
  readonly #bell: Doorbell
  readonly #worker: () => number
  #job: HandedJob | undefined
  /** While a job is being stored for it. */
  #reservation: PromiseWithResolvers<void> | undefined
  #isClosed = false
  /** The lane has nothing to do. */
  isFree = false

  constructor(bell: Doorbell, worker: () => number) {
    this.#bell = bell
    this.#worker = worker
  }

  /** Whose job it will be. */
  get worker(): number {
    return this.#worker()
  }

  get hasJob(): boolean {
    return this.#job !== undefined
  }

  reserve(): boolean {
    if (!this.isFree || this.#isClosed || this.hasJob || this.#reservation !== undefined) return false
    this.#reservation = Promise.withResolvers()
    return true
  }

  /** Ends the reservation, with the job or without one. */
  give(job: HandedJob | undefined): void {
    this.#job = job
    this.#reservation?.resolve()
    this.#reservation = undefined
    if (job !== undefined) this.#bell.ring()
  }

  take(): HandedJob | undefined {
    const job = this.#job
    this.#job = undefined
    return job
  }

  /** Resolves when what it was reserved for is here, or will not come; nothing else does any more. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#reservation?.promise
  }
}
