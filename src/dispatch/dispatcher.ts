import type { Catalog, Stream } from '../catalog.ts'
import type { Database } from '../db/pool.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from '../queue/bells.ts'
import { type Boss, within } from '../queue/boss.ts'
import { dispatchQueue } from '../queue/queues.ts'
import { retryDelayMs } from './backoff.ts'
import { ComposeError, composeMail } from './compose.ts'
import { envelopeOf, outgoingMail } from './outgoing.ts'
import * as queries from './queries.ts'
import { type Attempt, settle, settleFault } from './settlement.ts'
import type { Settler } from './settler.ts'
import type { SendOutcome, Transport } from './transport.ts'

/**
 * A dispatcher sends one stream's mail through one provider, with slots of its own.
 *
 * Takes in: jobs of `dispatch.<provider>.<stream>`, whose id is the message's. Leaves behind: the message
 * `sent`, `deferred` with a new job, `unknown`, or `dead`, and an event that says why.
 *
 * If the process dies
 * - before the claim commits: nothing happened;
 * - after the claim, before the provider answered, or after the answer and before it was settled: the
 *   message stays `sending` under this worker's number, and nobody can know whether it went out. Upkeep
 *   finds the session lock gone within seconds and does what the stream's `on_unknown` says. That is the
 *   one window for a duplicate, and it holds at most the sends in flight: no more is claimed than there
 *   are free slots;
 * - after the settling commit: done.
 */

const IDLE_MS = 1_000
/** How long to wait for several free slots before a single one is used. */
const GATHER_SLOTS_MS = 500
/** With so many outcomes unwritten nothing more is claimed. */
const MAX_UNSETTLED = 100
/** How long an unreachable provider is left alone: doubling from the first to the cap. */
const HOLD_OFF = { baseMs: 1_000, factor: 2, capMs: 30_000 }

export type DispatchDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly bells: Bells
  readonly meter: Meter
  readonly log: Log
  readonly catalog: { readonly current: Catalog }
  readonly settler: Settler
  readonly worker: () => number
  readonly random: () => number
}

type Claim = {
  readonly job: { readonly id: string; readonly retryCount: number }
  readonly message: queries.ClaimedMessage
  readonly worker: number
}

export class Dispatcher {
  readonly loop: Loop
  readonly #deps: DispatchDeps
  readonly #provider: string
  readonly #streamName: string
  readonly #queue: string
  readonly #transport: Transport
  readonly #inFlight = new Set<Promise<void>>()
  readonly #abort = new AbortController()
  /** Claims whose commit was never answered: they may be ours. */
  #doubtful: readonly Claim[] = []
  #claimedAt = 0
  /** Sends in a row that found the provider unreachable. */
  #unreachable = 0
  #holdUntil = 0

  constructor(deps: DispatchDeps, provider: string, stream: string, transport: Transport) {
    this.#deps = deps
    this.#provider = provider
    this.#streamName = stream
    this.#queue = dispatchQueue(provider, stream)
    this.#transport = transport
    this.loop = new Loop({ name: this.#queue, log: deps.log, idleMs: IDLE_MS, round: () => this.#round() })
    deps.bells.attach(this.#queue, this.loop.bell)
  }

  /**
   * Claims no more and lets sends in flight finish; those still open when `signal` fires are cut off. False
   * when messages may be left claimed that were never sent.
   */
  async stop(signal: AbortSignal): Promise<boolean> {
    signal.addEventListener('abort', () => this.#abort.abort())
    if (signal.aborted) this.#abort.abort()
    await this.loop.stop()
    await Promise.all(this.#inFlight)
    return this.#doubtful.length === 0
  }

  async #round(): Promise<boolean> {
    const stream = this.#deps.catalog.current.streams.get(this.#streamName)
    if (stream === undefined) return false
    if (this.#doubtful.length > 0) await this.#resolveDoubt(stream)
    // Outcomes come faster than the database takes them: what was sent now would be unknown if we died.
    if (this.#deps.settler.backlog > MAX_UNSETTLED) return false
    if (Date.now() < this.#holdUntil) return false
    // While the provider is away one message at a time finds out whether it is back.
    const slots = this.#unreachable > 0 ? 1 : stream.slots
    const free = slots - this.#inFlight.size
    // Fetching for a single free slot would cost a transaction a message: wait until a few are free, but not
    // for sends that hang.
    const isPatient = Date.now() - this.#claimedAt < GATHER_SLOTS_MS
    if (free < (isPatient ? Math.ceil(slots / 3) : 1)) return false
    this.#claimedAt = Date.now()
    // In few different sizes: the fetch carries its limit in its text, and each text is planned once.
    const count = 2 ** Math.floor(Math.log2(free))
    const claims = await this.#claim(count)
    for (const claim of claims) this.#launch(stream, claim)
    return claims.length === count
  }

  async #claim(count: number): Promise<Claim[]> {
    const { db, boss } = this.#deps
    const worker = this.#deps.worker()
    let claims: Claim[] = []
    const claiming = inTransaction(db, async (trx) => {
      const jobs = await boss.fetch(this.#queue, { batchSize: count, ...within(trx) })
      if (jobs.length === 0) return
      const ids = jobs.map((job) => job.id)
      const messages = await queries.claimMessages(trx, ids, worker)
      const claimed = new Map(messages.map((message) => [message.id, message]))
      // A job whose message may not be sent (canceled, erased, sent already) has nothing left to do.
      const idle = jobs.filter((job) => !claimed.has(job.id))
      if (idle.length > 0) await boss.deleteJob(this.#queue, idle, within(trx))
      claims = jobs.flatMap((job) => {
        const message = claimed.get(job.id)
        return message === undefined ? [] : [{ job, message, worker }]
      })
    })
    try {
      await claiming
    } catch (error) {
      this.#doubtful = claims
      throw error
    }
    return claims
  }

  /** A commit whose answer was lost may have happened: then the messages are ours, and nobody else sends them. */
  async #resolveDoubt(stream: Stream): Promise<void> {
    const found = await inTransaction(this.#deps.db, (trx) =>
      queries.readClaims(
        trx,
        this.#doubtful.map(({ message }) => message.id),
      ),
    )
    const rows = new Map(found.map((row) => [row.id, row]))
    const ours = this.#doubtful.filter(({ message, worker }) => {
      const row = rows.get(message.id)
      return row?.status === 'sending' && row.worker === worker && row.claimed_at === message.claimed_at
    })
    this.#doubtful = []
    for (const claim of ours) this.#launch(stream, claim)
  }

  #launch(stream: Stream, claim: Claim): void {
    const send = this.#send(stream, claim).finally(() => {
      this.#inFlight.delete(send)
      this.loop.bell.ring()
    })
    this.#inFlight.add(send)
  }

  async #send(stream: Stream, claim: Claim): Promise<void> {
    const { message } = claim
    const envelope = envelopeOf(message)
    const attempt: Attempt = {
      id: message.id,
      attempt: message.attempt,
      claimedAt: message.claimed_at,
      provider: this.#provider,
      recipients: envelope.to,
    }
    let settlement: queries.Settlement
    try {
      const outcome = await this.#transport.send(
        envelope,
        composeMail(outgoingMail(message)),
        this.#abort.signal,
      )
      const unreachableDelayMs = this.#noteReach(outcome)
      settlement = settle(attempt, outcome, { stream, unreachableDelayMs, random: this.#deps.random })
    } catch (error) {
      settlement = this.#faultOf(attempt, error)
    }
    const { job, worker } = claim
    this.#deps.settler.add({ queue: this.#queue, job, priority: message.priority, worker, settlement })
    if (settlement.status !== 'deferred') {
      this.#deps.meter.wentOut({ stage: 'dispatch', stream: stream.name, provider: this.#provider }, 1)
    }
  }

  /** A mail that cannot be put together is a dead letter; whatever else goes wrong here is a bug, and seen as one. */
  #faultOf(attempt: Attempt, error: unknown): queries.Settlement {
    if (error instanceof ComposeError) return settleFault(attempt, error.code, error.message)
    this.#deps.log.error({ message: attempt.id, error }, 'sending failed in an unforeseen way')
    return settleFault(
      attempt,
      'internal_error',
      'Sending failed in an unforeseen way; the log has the details.',
    )
  }

  /** Keeps count of whether the provider can be reached; returns how long to leave it alone. */
  #noteReach(outcome: SendOutcome): number {
    if (outcome.kind !== 'unreachable') {
      if (this.#unreachable > 0)
        this.#deps.log.info({ provider: this.#provider }, 'provider is reachable again')
      this.#unreachable = 0
      this.#holdUntil = 0
      return 0
    }
    // Cut off because we are stopping: says nothing about the provider.
    if (this.#abort.signal.aborted) return 0
    if (Date.now() < this.#holdUntil) return this.#holdUntil - Date.now()
    this.#unreachable += 1
    const holdMs = retryDelayMs(HOLD_OFF, this.#unreachable, this.#deps.random)
    this.#holdUntil = Date.now() + holdMs
    this.#deps.log.warn({ provider: this.#provider, code: outcome.code, holdMs }, 'provider is unreachable')
    return holdMs
  }
}
