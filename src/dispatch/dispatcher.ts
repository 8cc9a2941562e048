import type { BounceAddresses } from '../bounce-address.ts'
import type { Catalog, Stream } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import type { Clock } from '../database-clock.ts'
import type { Database } from '../db/pool.ts'
import type { Lifeline } from '../lifeline.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import type { Meter } from '../meter.ts'
import { providerRefOf } from '../provider-message-id.ts'
import type { Bells } from '../queue/bells.ts'
import type { Boss } from '../queue/boss.ts'
import { QueueFront } from '../queue/queue-front.ts'
import { dispatchQueue } from '../queue/queues.ts'
import { NO_KEYS, type Sealer } from '../sealer.ts'
import { type AttachmentStore, NOTHING_HELD } from './attachment-store.ts'
import { type Claim, type Claimed, type ClaimPlace, claimMail, findOurs, waitsSince } from './claims.ts'
import { type Health, isProviderFault } from './health.ts'
import { bytesToLoad, contentsOf, envelopeOf, outgoingOf } from './outgoing.ts'
import * as pacing from './pacing.ts'
import type * as queries from './queries.ts'
import { leftUnsent, requestsOf } from './requests.ts'
import { openClaimed, quiet, withoutWords } from './sensitive.ts'
import { servedQueues } from './serving.ts'
import { type Attempt, settle, settleFault } from './settlement.ts'
import type { Settler } from './settler.ts'
import { isRelay, type Outgoing, type SendOutcome, type StillOurs, type Transport } from './transport.ts'

/**
 * A dispatcher sends one stream's mail through one provider, with slots of its own.
 *
 * Takes in: jobs of `dispatch.<provider>.<stream>`, whose id is the message's, and those of a provider of
 * the route that may not send now (see serving.ts). Tokens are taken for as many messages as there are free
 * slots, then at most so many are claimed. Leaves behind: the message `sent`, `deferred` with a new job,
 * `unknown`, or `dead`, and an event that says why.
 *
 * If the process dies
 * - before the claim commits: nothing happened;
 * - after the claim, before the provider answered, or after the answer and before it was settled: the
 *   message stays `sending` under this worker's number, and nobody can know whether it went out. Upkeep
 *   finds the session lock gone within seconds and does what the stream's `on_unknown` says. That is the
 *   one window for a duplicate, and it holds at most the sends in flight (no more is claimed than there are
 *   free slots) and the outcomes not written yet (nothing is claimed while more than MAX_UNSETTLED wait);
 * - after the settling commit: done.
 *
 * If the process stands still, or loses the database, for longer than others wait, they take its mail. Right before a mail
 * is handed over it is asked whether that can have happened (`holds`), and then it is not.
 */

const IDLE_MS = 1_000
/** How long to wait for several free slots before a single one is used. */
const GATHER_SLOTS_MS = 500
/** With mail waiting, so long for more of them than will do: a claim costs hardly more for twenty messages than for seven. */
const GATHER_MORE_MS = 5
/** With so many outcomes unwritten nothing more is claimed. */
const MAX_UNSETTLED = 100
const UNSETTLED_PAUSE_MS = 20
/**
 * After such a silence one message goes ahead and the others follow when it is through. It opens the connection,
 * and has the code compiled: many at once would all be late, and their tokens with them, on top of the next ones.
 */
const COLD_MS = 10_000
/** A message whose provider could not be spoken to comes again after this, or later if it was asked to wait. */
const UNREACHABLE_DELAY_MS = 1_000
/** After a fault the provider is asked about before every claim for so long: others may have opened its breaker. */
const WARY_MS = 2_000
/** While mail that was put back for a limited domain comes back: how often it is looked for. */
const TURNS_LOOK_MS = 200
/** However many a batch may hold: what is claimed at once is settled at once. */
const MAX_CLAIM = 512
/** Jobs are dated by the begin of the transaction that puts them on the queue; longer ones than this are rare. */
const LATE_MS = 5_000
const UNFORESEEN = 'Sending failed in an unforeseen way; the log has the details.'

export type DispatchDeps = {
  readonly db: Database
  readonly boss: Boss
  readonly bells: Bells
  readonly meter: Meter
  readonly clock: Clock
  readonly log: Log
  readonly catalog: { readonly current: Catalog }
  readonly settler: Settler
  readonly health: Health
  readonly lifeline: Pick<Lifeline, 'noteClaims'>
  /** Shared by every dispatcher of the process. */
  readonly attachments: AttachmentStore
  readonly bounceAddresses: BounceAddresses
  /** Absent: no keys, so sensitive mail cannot be read. */
  readonly sealer?: Sealer
  readonly worker: () => number
  /** Whether what was claimed under this number cannot have been given to others yet. */
  readonly holds: (worker: number) => boolean | Promise<boolean>
  readonly random: () => number
}

export class Dispatcher {
  readonly loop: Loop
  readonly #deps: DispatchDeps
  readonly #provider: string
  readonly #streamName: string
  readonly #transportOf: (provider: string) => Transport | undefined
  readonly #inFlight = new Set<Promise<void>>()
  readonly #fronts = new Map<string, QueueFront>()
  readonly #abort = new AbortController()
  /** Claims whose commit was never answered: they may be ours. */
  #doubtful: readonly Claim[] = []
  // These by performance.now(): the clock on the wall may be set.
  #claimedAt = Number.NEGATIVE_INFINITY
  #sentAt = Number.NEGATIVE_INFINITY
  #waryUntil = 0
  /** Until then mail comes back that this dispatcher has put back for a limited domain. */
  #turnsUntil = 0
  /** The latest claim took as many as it could: more is waiting. */
  #isBusy = false
  /** Since when enough slots are free, by performance.now(). */
  #enoughSince: number | undefined

  constructor(
    deps: DispatchDeps,
    provider: string,
    stream: string,
    transportOf: (provider: string) => Transport | undefined,
  ) {
    this.#deps = deps
    this.#provider = provider
    this.#streamName = stream
    this.#transportOf = transportOf
    const queue = dispatchQueue(provider, stream)
    this.loop = new Loop({ name: queue, log: deps.log, idleMs: IDLE_MS, round: () => this.#round() })
    deps.bells.attach(queue, this.loop.bell)
  }

  /** Requests under way. */
  get slotsUsed(): number {
    return this.#inFlight.size
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

  async #round(): Promise<boolean | number> {
    const { current } = this.#deps.catalog
    const stream = current.streams.get(this.#streamName)
    if (stream === undefined) return false
    if (this.#doubtful.length > 0) await this.#resolveDoubt(stream)
    // Outcomes come faster than the database takes them: what was sent now would be unknown if we died.
    if (this.#deps.settler.backlog > MAX_UNSETTLED) return UNSETTLED_PAUSE_MS
    const transport = this.#transportOf(this.#provider)
    const isOpen = (provider: string) => this.#transportOf(provider) !== undefined
    const queues = servedQueues(current, this.#provider, stream, isOpen)
    if (transport === undefined || queues.length === 0) return false

    const free = stream.slots - this.#inFlight.size
    const isPatient = performance.now() - this.#claimedAt < GATHER_SLOTS_MS
    const gathering = this.#gather(stream, free, isPatient)
    if (gathering !== undefined) return gathering
    const isCold = this.#isWatched() && performance.now() - this.#sentAt > COLD_MS
    if (isCold && this.#inFlight.size > 0 && isPatient) return false
    this.#claimedAt = performance.now()
    const want = isCold && this.#inFlight.size === 0 ? 1 : wantOf(transport, free)
    const places = queues.map((queue) => this.#placeOf(stream, queue))
    const grant = await this.#takeTokens(stream, want, transport, places)
    // Never longer than this: a pause may be lifted and a quota raised meanwhile, and that rings no bell.
    const waitMs = grant.waitMs === undefined ? undefined : Math.min(grant.waitMs, IDLE_MS)
    const idle = () => Math.min(this.#idleMs(), ...places.map(({ front, look }) => front.msUntilNews(look)))
    if (grant.granted === 0) return waitMs ?? idle()
    const isWhole = await this.#sendWaiting(stream, transport, places, grant)
    this.#isBusy = isWhole
    return isWhole ? (waitMs ?? true) : idle()
  }

  /**
   * Until when to wait for more free slots; undefined when it is time to claim. Fetching for a single one would cost a
   * transaction a message: so a few are waited for, but not for sends that hang.
   */
  #gather({ slots }: Stream, free: number, isPatient: boolean): false | number | undefined {
    if (free < (isPatient ? Math.ceil(slots / 3) : 1)) {
      this.#enoughSince = undefined
      return false
    }
    const now = performance.now()
    this.#enoughSince ??= now
    const leftMs = this.#enoughSince + GATHER_MORE_MS - now
    if (this.#isBusy && free < slots && leftMs > 0) return leftMs
    this.#enoughSince = undefined
    return undefined
  }

  /** True when as many jobs waited as were granted; the tokens of what is not sent now go back, whatever happened. */
  async #sendWaiting(
    stream: Stream,
    transport: Transport,
    places: readonly ClaimPlace[],
    grant: { readonly granted: number; readonly waitMs?: number },
  ): Promise<boolean> {
    const batch: Claim[] = []
    let claimed = 0
    let fetched = 0
    try {
      await this.#claimFrom(places, grant.granted, ({ claims, ...taken }) => {
        claimed += claims.length
        fetched += taken.fetched
        this.#turnsUntil = Math.max(this.#turnsUntil, performance.now() + taken.comesBackMs)
        // A batch leaves when it is complete: a request of its own for each claim would be several for one token.
        if (transport.batch === undefined) this.#launch(stream, transport, claims)
        else batch.push(...claims)
      })
    } finally {
      this.#launch(stream, transport, batch)
      const unused = grant.granted - claimed - this.#doubtful.length
      if (grant.waitMs !== undefined && unused > 0) {
        await pacing.returnTokens(this.#deps.db, this.#provider, unused, transport.batch?.size ?? 1)
      }
    }
    return fetched === grant.granted
  }

  /** Without `waitMs` nothing had to be asked for: the provider has no limits and is well. */
  async #takeTokens(
    stream: Stream,
    want: number,
    transport: Transport,
    places: readonly ClaimPlace[],
  ): Promise<{ granted: number; waitMs?: number }> {
    if (!this.#isWatched()) return { granted: want }
    const startedAt = performance.now()
    const grant = await pacing.takeTokens(this.#deps.db, {
      provider: this.#provider,
      messages: want,
      priority: stream.priority,
      batch: transport.batch?.size ?? 1,
      // The very looks that the claims go on with: what is counted here is then found there.
      queues: places,
    })
    const { granted = 0, waitMs = 0 } = grant ?? {}
    if (granted === 0) {
      const tookMs = performance.now() - startedAt
      for (const { front, look } of places) front.end(look, tookMs, [])
    }
    if (granted > 0) reached('dispatch.tokens-taken')
    return grant === undefined ? { granted } : { granted, waitMs: waitMs ?? 0 }
  }

  #idleMs(): number {
    return performance.now() < this.#turnsUntil ? TURNS_LOOK_MS : IDLE_MS
  }

  #placeOf(stream: Stream, queue: string): ClaimPlace {
    const front = this.#fronts.get(queue) ?? new QueueFront(LATE_MS)
    this.#fronts.set(queue, front)
    return { queue, front, look: front.begin(), provider: this.#provider, stream }
  }

  #isWatched(): boolean {
    return this.#isSuspect() || this.#deps.catalog.current.providers.get(this.#provider)?.isMetered === true
  }

  #isSuspect(): boolean {
    const isWell = this.#deps.catalog.current.providers.get(this.#provider)?.isWell === true
    return !isWell || performance.now() < this.#waryUntil
  }

  /** Each claim is handed on before the next is made: an error in that one must not leave it lying. */
  async #claimFrom(
    places: readonly ClaimPlace[],
    count: number,
    handOn: (claimed: Claimed) => void,
  ): Promise<void> {
    let left = count
    for (const place of places) {
      if (left <= 0) return
      const claimed = await claimMail(this.#deps, place, left, (doubtful) => {
        this.#doubtful = doubtful
      })
      handOn(claimed)
      // By what was taken from the queue, so that mail behind what was put back comes in the next round.
      left -= claimed.fetched
    }
  }

  /** A commit whose answer was lost may have happened: then the messages are ours, and nobody else sends them. */
  async #resolveDoubt(stream: Stream): Promise<void> {
    const ours = await findOurs(this.#deps.db, this.#doubtful)
    const transport = this.#transportOf(this.#provider)
    if (transport === undefined) return
    this.#doubtful = []
    this.#launch(stream, transport, ours)
  }

  /** A slot is a request under way: of one message, or of a batch where the provider takes them. */
  #launch(stream: Stream, transport: Transport, claims: readonly Claim[]): void {
    const size = transport.batch?.size ?? 1
    for (let start = 0; start < claims.length; start += size) {
      const send = this.#send(stream, transport, claims.slice(start, start + size)).finally(() => {
        this.#inFlight.delete(send)
        this.#sentAt = performance.now()
        this.loop.bell.ring()
      })
      this.#inFlight.add(send)
    }
  }

  /** Almost always one request; mail with attachments may need several, and then each goes when the one before is through. */
  async #send(stream: Stream, transport: Transport, claims: readonly Claim[]): Promise<void> {
    let fault: SendOutcome | undefined
    const opened = claims.flatMap((claim) => this.#open(stream, claim) ?? [])
    for (const request of requestsOf(transport.batch, opened, ({ message }) => bytesToLoad(message))) {
      if (fault === undefined) fault = await this.#sendRequest(stream, transport, request)
      else for (const claim of request) this.#settle(stream, claim, leftUnsent(fault))
    }
  }

  /** With the secrets of a sensitive message; undefined, and settled, when they cannot be read here. */
  #open(stream: Stream, claim: Claim): Claim | undefined {
    const opened = openClaimed(this.#deps.sealer ?? NO_KEYS, claim.message)
    if (opened.ok) return { ...claim, message: opened.message }
    this.#settle(stream, claim, opened.outcome)
    return undefined
  }

  /** The provider's own fault, if that is how it ended: what waits behind it is better left. */
  async #sendRequest(
    stream: Stream,
    transport: Transport,
    claims: readonly Claim[],
  ): Promise<SendOutcome | undefined> {
    const wanted = claims.flatMap(({ message }) => contentsOf(message))
    const owner = `${this.#provider}.${stream.name}`
    const held =
      wanted.length === 0
        ? NOTHING_HELD
        : await this.#deps.attachments.hold(owner, wanted, this.#abort.signal)
    if ('kind' in held) {
      for (const claim of claims) this.#settle(stream, claim, held)
      return undefined
    }
    try {
      return await this.#handOver(stream, transport, claims, held.contents)
    } finally {
      held.release()
    }
  }

  async #handOver(
    stream: Stream,
    transport: Transport,
    claims: readonly Claim[],
    contents: ReadonlyMap<string, Buffer>,
  ): Promise<SendOutcome | undefined> {
    // The answer to a request may quote any mail in it.
    const isSecret = claims.some(({ message }) => message.message.sensitive === true)
    const whole: Claim[] = []
    const outgoing: Outgoing[] = []
    for (const claim of claims) {
      const mail = outgoingOf(claim.message, contents, this.#returnPathOf(stream, claim.message))
      if ('kind' in mail) this.#settle(stream, claim, mail, isSecret)
      else {
        whole.push(claim)
        outgoing.push(mail)
      }
    }
    const startedAt = performance.now()
    const outcomes = await this.#outcomesOf(transport, outgoing, () => this.#holds(whole))
    const seconds = (performance.now() - startedAt) / 1_000
    for (const [index, claim] of whole.entries()) this.#settle(stream, claim, outcomes[index], isSecret)
    // One request, one result: what a batch says of its provider it says once.
    const fault = outcomes.find((outcome) => outcome !== undefined && isProviderFault(outcome))
    const telling = fault ?? outcomes[0]
    if (telling === undefined) return undefined
    this.#measureRequest(seconds, fault !== undefined)
    if (fault !== undefined) this.#waryUntil = performance.now() + WARY_MS
    await this.#deps.health.note(this.#provider, isSecret ? quiet(telling) : telling, this.#isSuspect())
    return fault
  }

  #measureRequest(seconds: number, isFault: boolean): void {
    const { meter } = this.#deps
    const place = { stream: this.#streamName, provider: this.#provider }
    meter.happened('request', place, 1)
    if (isFault) meter.happened('fault', place, 1)
    meter.took('provider_latency', place, seconds)
  }

  #returnPathOf({ bounceDomain }: Stream, { id }: queries.ClaimedMessage): string | undefined {
    return bounceDomain === null ? undefined : this.#deps.bounceAddresses.of(id, bounceDomain)
  }

  /** Whatever goes wrong in a send is an outcome, so an error here is a bug, and seen as one: undefined. */
  async #outcomesOf(
    transport: Transport,
    outgoing: readonly Outgoing[],
    isStillOurs: StillOurs,
  ): Promise<readonly (SendOutcome | undefined)[]> {
    const [only] = outgoing
    try {
      if (transport.batch !== undefined && outgoing.length > 1) {
        return await transport.batch.send(outgoing, this.#abort.signal, isStillOurs)
      }
      return only === undefined ? [] : [await transport.send(only, this.#abort.signal, isStillOurs)]
    } catch (error) {
      this.#deps.log.error({ provider: this.#provider, error }, 'sending failed in an unforeseen way')
      return outgoing.map(() => undefined)
    }
  }

  /** One number almost always; of a batch that was claimed while this worker registered anew, each. */
  #holds(claims: readonly Claim[]): boolean | Promise<boolean> {
    const numbers = new Set(claims.map(({ worker }) => worker))
    const [only = this.#deps.worker()] = numbers
    return numbers.size <= 1 && this.#deps.holds(only)
  }

  /** `isSecret`: the outcome may quote mail that is sensitive. */
  #settle(stream: Stream, claim: Claim, outcome: SendOutcome | undefined, isSecret = false): void {
    const { job, message, worker, queue, closedMs } = claim
    const attempt: Attempt = {
      id: message.id,
      attempt: message.attempt,
      claimedAt: message.claimed_at,
      provider: this.#provider,
      recipients: envelopeOf(message).to,
      ageMs: this.#deps.clock.now() - waitsSince(message).getTime() - closedMs,
    }
    const settled =
      outcome === undefined
        ? settleFault(attempt, 'internal_error', UNFORESEEN)
        : settle(attempt, outcome, {
            stream,
            unreachableDelayMs: this.#delayAfter(outcome),
            random: this.#deps.random,
          })
    const { transport } = this.#deps.catalog.current.providers.get(this.#provider) ?? {}
    const told = isSecret && outcome !== undefined ? withoutWords(settled, transport) : settled
    const settlement = { ...told, providerRef: refOf(transport, told.providerMessageId) }
    this.#deps.settler.add({
      queue,
      job,
      priority: message.priority,
      worker,
      settlement,
      place: { stream: stream.name, provider: this.#provider },
      dueAt: dueAt(stream, message),
      endedAt: new Date(this.#deps.clock.now()),
    })
  }

  #delayAfter(outcome: SendOutcome): number {
    // Cut off because we are stopping: the next process may send it at once.
    if (this.#abort.signal.aborted) return 0
    return (
      (outcome.rate?.pauseMs ?? UNREACHABLE_DELAY_MS) + Math.round(this.#deps.random() * UNREACHABLE_DELAY_MS)
    )
  }
}

/** Nobody could have sent it sooner: a send window that was closed is no delay. */
function dueAt({ openedAt }: Stream, { due_at: given }: queries.ClaimedMessage): Date {
  return openedAt !== null && openedAt > given ? openedAt : given
}

/** What a relay says at the end of DATA is for its own log; an API's id comes back with its events. */
function refOf(transport: string | undefined, id: string | null): string | null {
  if (transport === undefined || isRelay(transport) || id === null) return null
  return providerRefOf(id) || null
}

/** As many messages as the free slots can carry; of a provider that takes batches, whole ones. */
function wantOf({ batch }: Transport, free: number): number {
  const size = batch?.size ?? 1
  return Math.min(free, Math.max(1, Math.floor(MAX_CLAIM / size))) * size
}
