import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import * as pacing from './pacing.ts'
import type { SendOutcome } from './transport.ts'

/** Successes are told once in so long; a fault, or anything of a provider in trouble, at once. */
const TELL_EACH_MS = 1_000
/** What a provider says remains of its limit is worth telling when it is near the end. */
const NOTEWORTHY_REMAINING = 1_000
const REASON_LENGTH = 300

/** Codes of a deferral that speak of the provider and not of the message or its recipient. */
const PROVIDER_DEFERRALS = new Set<string>([
  'provider_deferred',
  'service_unavailable',
  'server_out_of_space',
])
/** Ends of a send that are our own doing. */
const OUR_DOING = new Set<string>(['aborted', 'attachments_not_loaded', 'claim_lost', 'transport_closed'])

/** Whether an outcome is the provider's own fault: what the breaker counts. */
export function isProviderFault(outcome: SendOutcome): boolean {
  switch (outcome.kind) {
    case 'unreachable':
    case 'unknown':
      return !OUR_DOING.has(outcome.code)
    case 'deferred':
      return PROVIDER_DEFERRALS.has(outcome.code)
    default:
      return false
  }
}

type Tally = { requests: number; faults: number; reason: string | null }

/**
 * Tells the database how a provider is doing, so that all workers know: results for its breaker, pauses
 * it asked for, what it says remains. What cannot be told (the database is away) is dropped: it is about
 * this minute.
 */
export class Health {
  readonly #db: Database
  readonly #log: Log
  readonly #worker: () => number
  readonly #tallies = new Map<string, Tally>()
  #timer: NodeJS.Timeout | undefined
  #isDue = false
  #telling: Promise<void> = Promise.resolve()

  constructor(db: Database, log: Log, worker: () => number) {
    this.#db = db
    this.#log = log
    this.#worker = worker
  }

  /**
   * One request's outcome; `isSuspect` when its provider is not known to be well. Resolves at once, or after a
   * fault or a pause when the database knows of it: until then nobody may take its slot.
   */
  async note(provider: string, outcome: SendOutcome, isSuspect: boolean): Promise<void> {
    const tally = this.#tallies.get(provider) ?? { requests: 0, faults: 0, reason: null }
    this.#tallies.set(provider, tally)
    tally.requests += 1
    const isFault = isProviderFault(outcome)
    if (isFault) {
      tally.faults += 1
      tally.reason = describe(outcome)
    }
    this.#noteRate(provider, outcome)
    if (isFault || isSuspect) this.#tell()
    else this.#timer ??= setTimeout(() => this.#tell(), TELL_EACH_MS)
    if (isFault || outcome.rate?.pauseMs !== undefined) await this.#telling
  }

  /** Resolves when everything noted so far was told or given up. */
  async finish(): Promise<void> {
    this.#tell()
    await this.#telling
  }

  #noteRate(provider: string, outcome: SendOutcome): void {
    const { remaining, resetMs, pauseMs } = outcome.rate ?? {}
    const isThrottled = outcome.kind === 'unreachable' && outcome.code === 'throttled'
    if (pauseMs !== undefined || isThrottled) {
      this.#attempt(() => pacing.blockProvider(this.#db, provider, pauseMs ?? null, describe(outcome)))
    }
    if (remaining !== undefined && remaining < NOTEWORTHY_REMAINING) {
      this.#attempt(() => pacing.noteRemaining(this.#db, provider, remaining, resetMs ?? null))
    }
  }

  #tell(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#isDue) return
    this.#isDue = true
    // What comes while something is being told is told together after it.
    this.#attempt(async () => {
      this.#isDue = false
      const tallies = [...this.#tallies]
      this.#tallies.clear()
      for (const [provider, tally] of tallies) {
        await pacing.noteResults(this.#db, { provider, worker: this.#worker(), ...tally })
      }
    })
  }

  /** One after the other: the breaker reads results in the order they came. */
  #attempt(tell: () => Promise<void>): void {
    this.#telling = this.#telling.then(tell).catch((error: unknown) => {
      this.#log.debug({ error }, 'could not tell how a provider is doing')
    })
  }
}

function describe(outcome: SendOutcome): string {
  const said = 'reason' in outcome ? outcome.reason : (outcome.reply ?? '')
  const code = 'code' in outcome ? outcome.code : outcome.kind
  return withoutAddresses(`${code} ${said}`.trim()).slice(0, REASON_LENGTH)
}

/** As mail.without_addresses: a relay quotes whom it refuses, and how a provider is doing is shown to more people. */
function withoutAddresses(words: string): string {
  return words.replaceAll(/[^\s<>"':;,()]+@/g, '…@')
}
