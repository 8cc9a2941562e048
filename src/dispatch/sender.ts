import type { BounceAddresses } from '../bounce-address.ts'
import type { Catalog, Stream } from '../catalog.ts'
import type { Clock } from '../database-clock.ts'
import type { Log } from '../log.ts'
import type { Meter } from '../meter.ts'
import { providerRefOf } from '../provider-message-id.ts'
import { NO_KEYS, type Sealer } from '../sealer.ts'
import { type AttachmentStore, NOTHING_HELD } from './attachment-store.ts'
import { type Claim, waitsSince } from './claims.ts'
import { type Health, isProviderFault } from './health.ts'
import { bytesToLoad, contentsOf, envelopeOf, outgoingOf } from './outgoing.ts'
import type * as queries from './queries.ts'
import { leftUnsent, requestsOf, STALLED } from './requests.ts'
import { openClaimed, quiet, withoutWords } from './sensitive.ts'
import { type Attempt, settle, settleFault } from './settlement.ts'
import type { Settler } from './settler.ts'
import { isRelay, type Outgoing, type SendOutcome, type StillOurs, type Transport } from './transport.ts'

/** A message whose provider could not be spoken to comes again after this, or later if it was asked to wait. */
const UNREACHABLE_DELAY_MS = 1_000
/** After a fault the provider is asked about before every claim for so long: others may have opened its breaker. */
const WARY_MS = 2_000
const UNFORESEEN_LOG = 'sending failed in an unforeseen way'
/** The average of requests' times follows so many of them. */
const AVERAGED = 20
/** What waits for a slot is given back when none becomes free for so long: somebody else may get it out. */
const STALL_MS = 1_000
const UNFORESEEN = 'Sending failed in an unforeseen way; the log has the details.'

export type SenderDeps = {
  readonly meter: Meter
  readonly clock: Clock
  readonly log: Log
  readonly catalog: { readonly current: Catalog }
  readonly settler: Settler
  readonly health: Health
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

type Request = { readonly stream: Stream; readonly transport: Transport; readonly claims: readonly Claim[] }

/**
 * Hands claimed messages of one stream over to one provider, each request in a slot, and gives what became of them to the
 * settler. Every claim that comes in comes out as an outcome.
 */
export class Sender {
  readonly #deps: SenderDeps
  readonly #provider: string
  readonly #streamName: string
  readonly #onEnd: () => void
  readonly #inFlight = new Set<Promise<void>>()
  /** Ids of the messages of requests under way, as long as nothing is known of them. */
  readonly #unsettled = new Set<string>()
  /** Claimed, and not begun: each takes the next slot that becomes free. */
  readonly #waiting: Request[] = []
  readonly #abort = new AbortController()
  // These by performance.now(): the clock on the wall may be set.
  /** When the latest request ended. */
  sentAt = Number.NEGATIVE_INFINITY
  /** How long requests take lately: a moving average; infinite while that is not known. */
  requestMs = Number.POSITIVE_INFINITY
  #waryUntil = 0
  #stallTimer: NodeJS.Timeout | undefined

  constructor(deps: SenderDeps, provider: string, stream: string, onEnd: () => void) {
    this.#deps = deps
    this.#provider = provider
    this.#streamName = stream
    this.#onEnd = onEnd
  }

  /** How many requests are under way. */
  get underWay(): number {
    return this.#inFlight.size
  }

  /** How many are under way or wait for a slot. */
  get claimed(): number {
    return this.#inFlight.size + this.#waiting.length
  }

  /** The provider may have to be left alone: it was not well lately, or others say that it is not. */
  isSuspect(): boolean {
    const isWell = this.#deps.catalog.current.providers.get(this.#provider)?.isWell === true
    return !isWell || performance.now() < this.#waryUntil
  }

  /** What is still under way when `signal` fires is cut off. */
  cutOffAt(signal: AbortSignal): void {
    signal.addEventListener('abort', () => this.#abort.abort())
    if (signal.aborted) this.#abort.abort()
  }

  async finish(): Promise<void> {
    while (this.#inFlight.size > 0) await Promise.all(this.#inFlight)
  }

  /** A slot is a request under way: of one message, or of a batch where the provider takes them. */
  launch(stream: Stream, transport: Transport, claims: readonly Claim[]): void {
    const size = transport.batch?.size ?? 1
    for (let start = 0; start < claims.length; start += size) {
      this.#waiting.push({ stream, transport, claims: claims.slice(start, start + size) })
    }
    this.#fill(stream.slots)
    this.#watchStall()
  }

  #fill(slots: number): void {
    while (this.#inFlight.size < slots) {
      const request = this.#waiting.shift()
      if (request === undefined) return
      const send = this.#send(request).finally(() => {
        this.#inFlight.delete(send)
        this.sentAt = performance.now()
        this.#fill(slots)
        this.#onEnd()
      })
      this.#inFlight.add(send)
    }
  }

  #watchStall(): void {
    if (this.#stallTimer !== undefined || this.#waiting.length === 0) return
    this.#stallTimer = setTimeout(() => {
      this.#stallTimer = undefined
      if (performance.now() - this.sentAt >= STALL_MS) {
        this.requestMs = Number.POSITIVE_INFINITY
        this.#leaveWaiting(STALLED)
      }
      this.#watchStall()
    }, STALL_MS).unref()
  }

  /** Ends with an outcome for each, whatever happens: what nobody foresaw must not end the process, and all its sends with it. */
  async #send({ stream, transport, claims }: Request): Promise<void> {
    for (const { message } of claims) this.#unsettled.add(message.id)
    try {
      await this.#sendRequests(stream, transport, claims)
    } catch (error) {
      this.#deps.log.error({ provider: this.#provider, error }, UNFORESEEN_LOG)
      for (const claim of claims) {
        if (this.#unsettled.has(claim.message.id)) this.#settle(stream, claim, undefined)
      }
    }
  }

  /** Almost always one request; mail with attachments may need several, and then each goes when the one before is through. */
  async #sendRequests(stream: Stream, transport: Transport, claims: readonly Claim[]): Promise<void> {
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
    if (fault !== undefined) {
      this.#waryUntil = performance.now() + WARY_MS
      this.#leaveWaiting(leftUnsent(fault))
    }
    await this.#deps.health.note(this.#provider, isSecret ? quiet(telling) : telling, this.isSuspect())
    return fault
  }

  /** What nobody has begun with goes back. */
  #leaveWaiting(outcome: SendOutcome): void {
    for (const { stream, claims } of this.#waiting.splice(0)) {
      for (const claim of claims) this.#settle(stream, claim, outcome)
    }
  }

  #measureRequest(seconds: number, isFault: boolean): void {
    const { meter } = this.#deps
    const ms = seconds * 1_000
    this.requestMs = Number.isFinite(this.requestMs) ? this.requestMs + (ms - this.requestMs) / AVERAGED : ms
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
      this.#deps.log.error({ provider: this.#provider, error }, UNFORESEEN_LOG)
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
    this.#unsettled.delete(message.id)
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
