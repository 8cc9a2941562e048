import type { Stream } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import type { Lifeline } from '../lifeline.ts'
import { Loop } from '../loop.ts'
import type { Bells } from '../queue/bells.ts'
import type { Boss } from '../queue/boss.ts'
import type { Outlet, Outlets, Passage } from '../queue/outlets.ts'
import { QueueFront } from '../queue/queue-front.ts'
import { dispatchQueue } from '../queue/queues.ts'
import { type Claim, type Claimed, type ClaimPlace, claimMail, type FetchPlace, findOurs } from './claims.ts'
import * as pacing from './pacing.ts'
import { openPassage } from './passage.ts'
import { Sender, type SenderDeps } from './sender.ts'
import { servedQueues } from './serving.ts'
import type { Transport } from './transport.ts'

/**
 * A dispatcher sends one stream's mail through one provider, with slots of its own.
 *
 * Takes in: jobs of `dispatch.<provider>.<stream>`, whose id is the message's, and those of a provider of
 * the route that may not send now (see serving.ts); and with nothing to do, what processing claims for it where it makes
 * it ready (see queue/outlets.ts). Tokens are taken for as many messages as there are free slots, then at most so many are
 * claimed. Leaves behind: the message `sent`, `deferred` with a new job, `unknown`, or `dead`, and an event that says why.
 *
 * If the process dies
 * - before the claim commits: nothing happened;
 * - after the claim, before the provider answered, or after the answer and before it was settled: the
 *   message stays `sending` under this worker's number, and nobody can know whether it went out. Upkeep
 *   finds the session lock gone within seconds and does what the stream's `on_unknown` says. That is the
 *   one window for a duplicate, and it holds at most the sends in flight (never more than slots; what is claimed
 *   ahead of them was not begun) and the outcomes not written yet (nothing is claimed while more than MAX_UNSETTLED wait);
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
/** A provider that takes so long at most for a request may have mail claimed ahead: so many times its slots. */
const FAST_MS = 25
const AHEAD = 2
/** With so many outcomes unwritten nothing more is claimed. */
const MAX_UNSETTLED = 100
const UNSETTLED_PAUSE_MS = 20
/**
 * After such a silence one message goes ahead and the others follow when it is through. It opens the connection,
 * and has the code compiled: many at once would all be late, and their tokens with them, on top of the next ones.
 */
const COLD_MS = 10_000
/** While mail that was put back for a limited domain comes back: how often it is looked for. */
const TURNS_LOOK_MS = 200
/** After mail that went from hand to hand has failed, the next goes by the queue: what is wrong with a claim is dispatch's to report. */
const REFUSES_MS = 10_000
/** However many a batch may hold: what is claimed at once is settled at once. */
const MAX_CLAIM = 512
/** Jobs are dated by the begin of the transaction that puts them on the queue; longer ones than this are rare. */
const LATE_MS = 5_000

export type DispatchDeps = SenderDeps & {
  readonly db: Database
  readonly boss: Boss
  readonly bells: Bells
  readonly outlets: Outlets
  readonly lifeline: Pick<Lifeline, 'noteClaims'>
}

export class Dispatcher implements Outlet {
  readonly loop: Loop
  readonly #deps: DispatchDeps
  readonly #provider: string
  readonly #streamName: string
  readonly #transportOf: (provider: string) => Transport | undefined
  readonly #sender: Sender
  readonly #fronts = new Map<string, QueueFront>()
  /** Claims whose commit was never answered: they may be ours. */
  #doubtful: readonly Claim[] = []
  // These by performance.now(): the clock on the wall may be set.
  #claimedAt = Number.NEGATIVE_INFINITY
  /** Until then mail comes back that this dispatcher has put back for a limited domain. */
  #turnsUntil = 0
  /** The latest claim took as many as it could: more is waiting. */
  #isBusy = false
  /** Since when enough slots are free, by performance.now(). */
  #enoughSince: number | undefined
  /** Slots kept for mail that is being made ready (see queue/outlets.ts), and those that the round under way claims for. */
  #reserved = 0
  #claiming = 0
  /** Until then nothing is taken from hand to hand: the latest that was has failed. By performance.now(). */
  #refusesUntil = Number.NEGATIVE_INFINITY
  readonly #passages = new Set<Promise<void>>()
  #isStopping = false

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
    const round = () =>
      this.#round().finally(() => {
        this.#claiming = 0
      })
    this.loop = new Loop({ name: queue, log: deps.log, idleMs: IDLE_MS, round })
    deps.bells.attach(queue, this.loop.bell)
    deps.outlets.attach(queue, this)
    this.#sender = new Sender(deps, provider, stream, () => this.loop.bell.ring())
  }

  /** Requests under way. */
  get slotsUsed(): number {
    return this.#sender.underWay
  }

  /**
   * Claims no more and lets sends in flight finish; those still open when `signal` fires are cut off. False
   * when messages may be left claimed that were never sent.
   */
  async stop(signal: AbortSignal): Promise<boolean> {
    this.#isStopping = true
    this.#sender.cutOffAt(signal)
    await this.loop.stop()
    await Promise.all(this.#passages)
    await this.#sender.finish()
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
    const queues = this.#queuesOf(stream)
    if (transport === undefined || queues.length === 0) return false

    const ahead = this.#ahead(stream, transport)
    const free = stream.slots + ahead - this.#sender.claimed - this.#reserved
    const isPatient = performance.now() - this.#claimedAt < GATHER_SLOTS_MS
    const gathering = this.#gather(stream, ahead, free, isPatient)
    if (gathering !== undefined) return gathering
    const isCold = this.#isWatched() && performance.now() - this.#sender.sentAt > COLD_MS
    if (isCold && this.#sender.underWay > 0 && isPatient) return false
    this.#claimedAt = performance.now()
    const want = isCold && this.#sender.underWay === 0 ? 1 : wantOf(transport, free)
    const places = queues.map((queue) => this.#placeOf(stream, queue))
    this.#claiming = Math.min(want, free)
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
   * How many may be claimed before there is a slot for them: a relay that is fast would be through with all it was given before
   * the next are claimed.
   */
  #ahead(stream: Stream, transport: Transport): number {
    const isFast = this.#sender.requestMs <= FAST_MS
    return isFast && this.#mayClaimEarly(stream, transport) ? AHEAD * stream.slots : 0
  }

  /** False, too, while it is not known. */
  get #isSlow(): boolean {
    const { requestMs } = this.#sender
    return Number.isFinite(requestMs) && requestMs > FAST_MS
  }

  /**
   * Before it is its turn nothing is claimed that somebody would have to settle, or that would be given up, if we died although it
   * was never begun, and nothing whose moment is paid for: by a token, or a turn of a limited domain.
   */
  #mayClaimEarly({ onUnknown, attempts }: Stream, transport: Transport): boolean {
    const isTimed = this.#isWatched() || this.#deps.catalog.current.domainLimits.length > 0
    return !isTimed && transport.batch === undefined && onUnknown === 'retry' && attempts > 1
  }

  /** Only while nothing waits here that would have to go before, as far as the latest look knows. */
  reserve(messages: number): Passage | undefined {
    const stream = this.#deps.catalog.current.streams.get(this.#streamName)
    const transport = this.#transportOf(this.#provider)
    if (stream === undefined || transport === undefined) return undefined
    if (!this.#mayPass() || !this.#mayClaimEarly(stream, transport)) return undefined
    const queue = dispatchQueue(this.#provider, this.#streamName)
    if (!this.#queuesOf(stream).includes(queue)) return undefined
    // Nearly every round claims for nothing; but what a slow relay gets too much of would be held up.
    const claiming = this.#isSlow ? this.#claiming : 0
    if (stream.slots - this.#sender.claimed - this.#reserved - claiming < messages) return undefined
    return this.#openPassage({ queue, provider: this.#provider, stream }, transport, messages)
  }

  #mayPass(): boolean {
    const isOccupied = this.#isBusy || this.#doubtful.length > 0 || this.#deps.settler.backlog > MAX_UNSETTLED
    return !this.#isStopping && !isOccupied && performance.now() >= this.#refusesUntil
  }

  #openPassage(place: ClaimPlace, transport: Transport, messages: number): Passage {
    this.#reserved += messages
    const ended = Promise.withResolvers<void>()
    this.#passages.add(ended.promise)
    const leave = () => {
      this.#reserved -= messages
      this.#passages.delete(ended.promise)
      ended.resolve()
    }
    return openPassage(this.#deps, place, {
      over: (claims) => {
        leave()
        this.#sender.launch(place.stream, this.#transportOf(this.#provider) ?? transport, claims)
        // Others may have been told that there is no room.
        if (claims.length < messages) this.loop.bell.ring()
      },
      doubted: (claims) => {
        leave()
        this.#refusesUntil = performance.now() + REFUSES_MS
        this.#doubtful = [...this.#doubtful, ...claims]
        this.loop.bell.ring()
      },
    })
  }

  #queuesOf(stream: Stream): string[] {
    const isOpen = (provider: string) => this.#transportOf(provider) !== undefined
    return servedQueues(this.#deps.catalog.current, this.#provider, stream, isOpen)
  }

  /**
   * Until when to wait for more free slots; undefined when it is time to claim. Fetching for a single one would cost a
   * transaction a message: so a few are waited for, but not for sends that hang.
   */
  #gather({ slots }: Stream, ahead: number, free: number, isPatient: boolean): false | number | undefined {
    // With mail ahead no slot stands empty while more are gathered.
    const enough = ahead > 0 ? (slots + ahead) / 2 : Math.ceil(slots / 3)
    if (free < (isPatient ? enough : 1)) {
      this.#enoughSince = undefined
      return false
    }
    const now = performance.now()
    this.#enoughSince ??= now
    const leftMs = this.#enoughSince + GATHER_MORE_MS - now
    if (this.#isBusy && free < slots + ahead && leftMs > 0) return leftMs
    this.#enoughSince = undefined
    return undefined
  }

  /** True when as many jobs waited as were granted; the tokens of what is not sent now go back, whatever happened. */
  async #sendWaiting(
    stream: Stream,
    transport: Transport,
    places: readonly FetchPlace[],
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
        if (transport.batch === undefined) this.#sender.launch(stream, transport, claims)
        else batch.push(...claims)
      })
    } finally {
      this.#sender.launch(stream, transport, batch)
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
    places: readonly FetchPlace[],
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

  #placeOf(stream: Stream, queue: string): FetchPlace {
    const front = this.#fronts.get(queue) ?? new QueueFront(LATE_MS)
    this.#fronts.set(queue, front)
    return { queue, front, look: front.begin(), provider: this.#provider, stream }
  }

  #isWatched(): boolean {
    const provider = this.#deps.catalog.current.providers.get(this.#provider)
    return this.#sender.isSuspect() || provider?.isMetered === true
  }

  /** Each claim is handed on before the next is made: an error in that one must not leave it lying. */
  async #claimFrom(
    places: readonly FetchPlace[],
    count: number,
    handOn: (claimed: Claimed) => void,
  ): Promise<void> {
    let left = count
    for (const place of places) {
      if (left <= 0) return
      const claimed = await claimMail(this.#deps, place, left, (doubtful) => {
        this.#doubtful = [...this.#doubtful, ...doubtful]
      })
      handOn(claimed)
      // By what was taken from the queue, so that mail behind what was put back comes in the next round.
      left -= claimed.fetched
    }
  }

  /** A commit whose answer was lost may have happened: then the messages are ours, and nobody else sends them. */
  async #resolveDoubt(stream: Stream): Promise<void> {
    const asked = this.#doubtful
    const ours = await findOurs(this.#deps.db, asked)
    const transport = this.#transportOf(this.#provider)
    if (transport === undefined) return
    this.#doubtful = this.#doubtful.filter((claim) => !asked.includes(claim))
    this.#sender.launch(stream, transport, ours)
  }
}

/** As many messages as the free slots can carry; of a provider that takes batches, whole ones. */
function wantOf({ batch }: Transport, free: number): number {
  const size = batch?.size ?? 1
  return Math.min(free, Math.max(1, Math.floor(MAX_CLAIM / size))) * size
}
