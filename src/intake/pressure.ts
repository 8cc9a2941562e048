import type { Database } from '../db/pool.ts'
import { ApiError } from '../errors.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import * as queries from './pressure-queries.ts'
import { SeenWaiting } from './seen-waiting.ts'

/**
 * Refuses mail while the doors are too full: past a soft limit streams that are not urgent, past a hard one all.
 * A request is decided on in memory, from a look at the doors twice a second.
 *
 * If the looks fail, the latest verdict stands: while the database is away nothing is accepted anyway.
 */

const LOOK_EACH_MS = 500
/** A look that has to count takes longer; it may use this share of one connection's time. */
const SHARE_OF_TIME = 0.1
const LONGEST_PAUSE_MS = 5_000
/** Over which growth and drain are taken, and the least that says anything. */
const WINDOW_MS = 10_000
const LEAST_WINDOW_MS = 4_000

const LONGEST_RETRY_S = 300
/** While nobody knows how quickly the doors empty. */
const RETRY_S = 10

type Passed =
  | { readonly pressure: 'soft' | 'hard'; readonly cause: 'backlog' | 'age' | 'growth' }
  | { readonly pressure: null; readonly cause: null }

type Verdict = Passed & {
  readonly retryAfterS: number
  readonly urgentPriority: number
}

type Sample = Pick<queries.Measured, 'backlog' | 'last_seq'> & { readonly at: number }

export type PressureDeps = {
  readonly db: Database
  readonly log: Log
  /** Milliseconds, never going back. */
  readonly now: () => number
}

export class PressureGauge {
  readonly loop: Loop
  readonly #deps: PressureDeps
  #samples: Sample[] = []
  readonly #seen = new SeenWaiting()
  #verdict: Verdict = { pressure: null, cause: null, retryAfterS: RETRY_S, urgentPriority: 9 }

  constructor(deps: PressureDeps) {
    this.#deps = deps
    this.loop = new Loop({
      name: 'pressure',
      log: deps.log,
      idleMs: LOOK_EACH_MS,
      round: async () => {
        const tookMs = await this.look()
        return Math.min(Math.max(LOOK_EACH_MS, tookMs / SHARE_OF_TIME), LONGEST_PAUSE_MS)
      },
    })
  }

  /** The limit that is passed, as of the latest look. */
  get level(): 'none' | 'soft' | 'hard' {
    return this.#verdict.pressure ?? 'none'
  }

  /**
   * Throws an ApiError: 503 while mail of every kind is refused; 429 while mail of this stream is. Without a stream:
   * before the body is read, when it is not known yet.
   */
  admit(stream?: { readonly name: string; readonly priority: number }): void {
    const { pressure, urgentPriority, retryAfterS } = this.#verdict
    if (pressure === 'hard') {
      throw new ApiError(
        'service_unavailable',
        'More mail is waiting than may wait. Nothing was accepted; repeat the request after the time in `Retry-After`.',
        { retryAfterS },
      )
    }
    if (pressure === 'soft' && stream !== undefined && stream.priority > urgentPriority) {
      throw new ApiError(
        'rate_limit_exceeded',
        `Much mail is waiting, and stream \`${stream.name}\` is not urgent. Nothing was accepted; repeat the request after the time in \`Retry-After\`.`,
        { retryAfterS },
      )
    }
  }

  /** Looks at the doors; returns how long that took, in milliseconds. */
  async look(): Promise<number> {
    const at = this.#deps.now()
    const measured = await queries.measureIntake(this.#deps.db)
    const oldestAgeS = this.#seen.oldestAgeS(measured, at)
    this.#seen.note(measured, at, measured.hard_age_s * 1_000 + WINDOW_MS)
    this.#samples = [...this.#samples.filter((sample) => at - sample.at <= WINDOW_MS), { ...measured, at }]
    this.#decide(judge(measured, oldestAgeS, ratesOf(this.#samples)), measured.backlog, oldestAgeS)
    return this.#deps.now() - at
  }

  /** Told once for each change: the requests that are refused are many. */
  #decide(next: Verdict, backlog: number, oldestAgeS: number): void {
    const { pressure } = this.#verdict
    this.#verdict = next
    if (next.pressure === pressure) return
    const { cause, retryAfterS } = next
    const seen = { pressure: next.pressure, cause, backlog, oldestAgeS: Math.round(oldestAgeS) }
    if (next.pressure === null) this.#deps.log.info(seen, 'mail of every stream is accepted again')
    else if (next.pressure === 'soft')
      this.#deps.log.warn({ ...seen, retryAfterS }, 'the doors are full: less urgent mail gets 429')
    else this.#deps.log.warn({ ...seen, retryAfterS }, 'the doors are full: all mail gets 503')
  }
}

type Rates = { readonly growthPerS: number; readonly drainPerS: number }

function judge(measured: queries.Measured, oldestAgeS: number, rates: Rates | undefined): Verdict {
  const passed = passedLimit(measured, oldestAgeS, rates)
  const retryAfterS = retryAfter(measured, passed, rates?.drainPerS)
  return { ...passed, retryAfterS, urgentPriority: measured.urgent_priority }
}

/** In the order of mail.measure_intake, which knows nothing of growth and takes every age as it is written. */
function passedLimit(measured: queries.Measured, oldestAgeS: number, rates: Rates | undefined): Passed {
  const { backlog, soft_growth_per_s: growth } = measured
  if (backlog > measured.hard_backlog) return { pressure: 'hard', cause: 'backlog' }
  if (oldestAgeS > measured.hard_age_s) return { pressure: 'hard', cause: 'age' }
  if (backlog > measured.soft_backlog) return { pressure: 'soft', cause: 'backlog' }
  if (oldestAgeS > measured.soft_age_s) return { pressure: 'soft', cause: 'age' }
  const isGrowing = growth !== null && rates !== undefined && rates.growthPerS > growth
  return isGrowing ? { pressure: 'soft', cause: 'growth' } : { pressure: null, cause: null }
}

function ratesOf(samples: readonly Sample[]): Rates | undefined {
  const [first] = samples
  const last = samples.at(-1)
  if (first === undefined || last === undefined || last.at - first.at < LEAST_WINDOW_MS) return undefined
  const seconds = (last.at - first.at) / 1_000
  const grown = last.backlog - first.backlog
  return { growthPerS: grown / seconds, drainPerS: (last.last_seq - first.last_seq - grown) / seconds }
}

/** Seconds until the backlog is below its limit again at the present drain; for age, until it is gone. */
function retryAfter(
  { backlog, soft_backlog, hard_backlog }: queries.Measured,
  { pressure, cause }: Passed,
  drainPerS: number | undefined,
): number {
  // Growth is over when it is over, whatever the drain is.
  if (cause === 'growth' || drainPerS === undefined || drainPerS <= 0) return RETRY_S
  const limit = pressure === 'hard' ? hard_backlog : soft_backlog
  const excess = cause === 'backlog' ? backlog - limit : backlog
  return Math.min(Math.max(Math.ceil(excess / drainPerS), 1), LONGEST_RETRY_S)
}
