import type { Stream } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import { Loop } from '../loop.ts'
import type { Message } from '../message/message.ts'
import { type HandedJob, Seat, type StoredMessage } from '../queue/handover.ts'
import { jobPriority, processQueue, urgentBell } from '../queue/queues.ts'
import { ALONE_PRIORITY, type Claim, claimJobs, type Job, type Wanted } from './claims.ts'
import { FetchingLane } from './fetching-lane.ts'
import { type Early, freshJobs, type LaneName, type ProcessingDeps, processClaim } from './process-claim.ts'
import { type Batch, readBatch } from './read-batch.ts'

/**
 * Processing prepares accepted messages for dispatch.
 *
 * Takes in: jobs of `process.<stream>`, each a batch of ids of messages that are `accepted`; or one that the mover of this
 * process stored as claimed, with its messages, while there was nothing to do (see queue/handover.ts). Leaves
 * behind, in one transaction: the messages `queued` for a provider with what was rendered, or `dead` with
 * the reason, or `suppressed`; one dispatch job for each that is queued; no processing job. A few for a dispatcher of this process that
 * has nothing to do are left `sending`, claimed by it (see queue/outlets.ts). Messages that name attachments by URL go to a lane of
 * their own first (see fetching-lane.ts).
 *
 * If the process dies
 * - before the claim commits: the job was never taken;
 * - between the claim and the final commit: nothing was written; upkeep gives the job back when the
 *   worker's session lock is gone. A batch that comes back is split into jobs of one id each, which a
 *   loop of its own takes, so that one message that kills a worker cannot hold the others;
 * - after the final commit: done; what was claimed to be sent is rescued as dispatch's (see dispatch/dispatcher.ts).
 * What was handed over goes the same way: its claim stands in the table from the start.
 *
 * If the database goes away and the process lives, the jobs in hand are taken up again when it is back: nobody
 * else may touch what a living worker claimed. (But for a job that was handed over: after its lease somebody else may have it.)
 */

const JOBS_PER_ROUND = 4
const IDLE_MS = 1_000
/** With more than these there is no hurry: what comes in is a stream. */
const EARLY_MESSAGES = 10
/** While jobs are handed over, the queue is looked at so often: what rings for it may have been taken for one of them. */
const LOOK_EACH_MS = 100

/** What a lane takes; undefined when there can be nothing for it. */
function wantedBy(lane: LaneName, stream: Stream): Wanted | undefined {
  switch (lane) {
    case 'batches':
      return { batchSize: JOBS_PER_ROUND, minPriority: 0 }
    case 'urgent':
      if (stream.priority === 0) return undefined
      return { batchSize: JOBS_PER_ROUND, minPriority: jobPriority(stream.priority) + 1 }
    case 'alone':
      return { batchSize: 1, minPriority: ALONE_PRIORITY, maxPriority: ALONE_PRIORITY }
  }
}

/** What runs for one stream until it is stopped. */
export type ProcessingLane = Pick<Loop, 'start' | 'stop'>

/** The lanes of one stream: for batches, for what is more urgent, for messages processed alone, for attachments to fetch. */
export function createProcessingLanes(deps: ProcessingDeps, stream: string): ProcessingLane[] {
  const batches = new Lane(deps, stream, 'batches')
  const urgent = new Lane(deps, stream, 'urgent')
  const alone = new Lane(deps, stream, 'alone')
  batches.listen(processQueue(stream))
  urgent.listen(urgentBell(stream))
  return [urgent, batches, alone, new FetchingLane(deps, stream)]
}

class Lane implements ProcessingLane {
  readonly #loop: Loop
  readonly #deps: ProcessingDeps
  readonly #stream: string
  readonly #queue: string
  readonly #name: LaneName
  readonly #seat: Seat
  #inHand: Claim | undefined
  /** Since when jobs were handed over and the queue was not looked at, by performance.now(). */
  #handedSince: number | undefined

  constructor(deps: ProcessingDeps, stream: string, name: LaneName) {
    this.#deps = deps
    this.#stream = stream
    this.#queue = processQueue(stream)
    this.#name = name
    this.#loop = new Loop({
      name: name === 'batches' ? this.#queue : `${this.#queue} ${name}`,
      log: deps.log,
      idleMs: IDLE_MS,
      round: async () => {
        this.#seat.isFree = false
        const next = await this.#round()
        this.#seat.isFree = next !== true
        return next
      },
    })
    this.#seat = new Seat(this.#loop.bell, deps.worker)
  }

  start(): void {
    this.#loop.start()
  }

  /** Ends what is in hand, and what was promised to it. */
  async stop(): Promise<void> {
    await this.#seat.close()
    await this.#loop.stop()
    const stream = this.#deps.catalog.current.streams.get(this.#stream)
    const handed = this.#inHand === undefined ? this.#seat.take() : undefined
    if (stream === undefined || handed === undefined) return
    await this.#process(stream, this.#take(handed)).catch((error: unknown) => {
      this.#deps.log.warn(
        { queue: this.#queue, error },
        'processing failed while stopping; its job is left to others',
      )
    })
  }

  /** `bell` is rung for what this lane takes. */
  listen(bell: string): void {
    this.#deps.bells.attach(bell, this.#loop.bell)
    this.#deps.handover.attach(bell, this.#seat)
  }

  async #round(): Promise<boolean | number> {
    const stream = this.#deps.catalog.current.streams.get(this.#stream)
    const wanted = stream && wantedBy(this.#name, stream)
    if (stream === undefined || wanted === undefined) {
      // Its lease brings it back.
      this.#seat.take()
      return false
    }
    const handed = this.#nextHanded()
    const early = handed === undefined ? await this.#claim(wanted) : this.#take(handed)
    const jobs = await this.#process(stream, early)
    if (jobs === wanted.batchSize || this.#seat.hasJob) return true
    return handed === undefined ? false : LOOK_EACH_MS
  }

  /** What is in hand, if anything is; returns how many jobs those were. */
  async #process(stream: Stream, early: Early): Promise<number> {
    if (this.#inHand === undefined) return 0
    reached('processing.claimed')
    await processClaim(this.#deps, stream, this.#name, this.#inHand, early)
    const { jobs } = this.#inHand
    this.#inHand = undefined
    return jobs.length
  }

  /** Unless it is the queue's turn, or something is in hand since the database went away. */
  #nextHanded(): HandedJob | undefined {
    if (this.#inHand !== undefined) return undefined
    if (performance.now() - (this.#handedSince ?? Number.POSITIVE_INFINITY) > LOOK_EACH_MS) return undefined
    return this.#seat.take()
  }

  #take({ id, worker, messages }: HandedJob): Early {
    this.#handedSince ??= performance.now()
    const jobs: readonly Job[] = [{ id, retryCount: 0, data: { ids: messages.map((message) => message.id) } }]
    this.#inHand = { jobs, worker, isHanded: true }
    return { batch: this.#readEarly(jobs, messages) }
  }

  /** Whatever fails is read again when it is due. */
  #readEarly(jobs: readonly Job[], known?: readonly StoredMessage[]): Promise<Batch | undefined> {
    const loaded = known?.map(({ id, priority, source, message, sealed }) => {
      return { id, priority, source, message: JSON.parse(message) as Message, sealed }
    })
    return readBatch(this.#deps, this.#stream, jobs, loaded).catch(() => undefined)
  }

  async #claim(wanted: Wanted): Promise<Early> {
    this.#handedSince = undefined
    let batch: Promise<Batch | undefined> | undefined
    this.#inHand ??= await claimJobs(this.#deps, this.#queue, wanted, {
      fetched: (jobs) => {
        const fresh = freshJobs(this.#name, jobs)
        if (this.#name === 'alone' || !isSmall(fresh)) return
        batch = this.#readEarly(fresh)
      },
      recorded: (claim) => {
        this.#inHand = claim
      },
    })
    return batch === undefined ? {} : { batch }
  }
}

/** So few messages that reading them cannot cost a worker its life, which is counted from the claim's commit on. */
function isSmall(jobs: readonly Job[]): boolean {
  return jobs.reduce((sum, job) => sum + job.data.ids.length, 0) <= EARLY_MESSAGES
}
