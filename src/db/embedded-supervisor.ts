import { setTimeout as delay } from 'node:timers/promises'
import { codeOf } from './embedded-error.ts'
import { type Postmaster, requestShutdown } from './embedded-postmaster.ts'

export type Log = { info(o: object, m: string): void; warn(o: object, m: string): void }

const FIRST_BACKOFF_MS = 100
/** As long as its disk is full, say: nobody waits much longer than this when there is room again. */
const MAX_BACKOFF_MS = 10_000
/** A server that lived this long was healthy: its next end is a new incident, with the short back-off again. */
const HEALTHY_AFTER_MS = 60_000
/** A fast shutdown writes everything still in memory; on a slow disk that takes its time. */
const SHUTDOWN_LIMIT_MS = 120_000

type Deps = {
  /** Starts the server, or finds one that somebody else started. */
  readonly raise: () => Postmaster
  readonly waitUntilReady: (postmaster: Postmaster, signal: AbortSignal) => Promise<void>
  /** What can be found out about a start that failed; empty when nothing. */
  readonly reasonOfEnd: () => Promise<string>
  readonly log: Log
}

/** Keeps one server running from its first start until `stop`: whatever ends it, it is started again. */
export class Supervisor {
  readonly #deps: Deps
  readonly #stopping = new AbortController()
  readonly #finished: Promise<void>
  #postmaster: Postmaster
  #stopped: Promise<void> | undefined

  constructor(deps: Deps, postmaster: Postmaster) {
    this.#deps = deps
    this.#postmaster = postmaster
    this.#finished = this.#watch()
  }

  /** Shuts the server down and waits for its end. Safe to call again, and while a restart is under way. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stopOnce()
    return this.#stopped
  }

  async #watch(): Promise<void> {
    const { signal } = this.#stopping
    let backoffMs = FIRST_BACKOFF_MS
    // Undefined after a start that failed: the time before it proves nothing of the next.
    let readyAt: number | undefined = performance.now()
    for (;;) {
      const how = await this.#postmaster.ended
      if (signal.aborted) return
      if (readyAt !== undefined && performance.now() - readyAt > HEALTHY_AFTER_MS)
        backoffMs = FIRST_BACKOFF_MS
      this.#deps.log.warn(
        { event: 'postgres_ended', how, backoffMs },
        'the embedded Postgres has ended; starting it again',
      )
      await pause(backoffMs, signal)
      if (signal.aborted) return
      backoffMs = Math.min(backoffMs * 2, MAX_BACKOFF_MS)
      readyAt = (await this.#restart(signal)) ? performance.now() : undefined
    }
  }

  /** Fails when orphaned backends of the killed server are not gone yet: the next round tries again. */
  async #restart(signal: AbortSignal): Promise<boolean> {
    try {
      this.#postmaster = this.#deps.raise()
      await this.#deps.waitUntilReady(this.#postmaster, signal)
      this.#deps.log.info(
        { event: 'postgres_restarted', pid: this.#postmaster.pid },
        'the embedded Postgres runs again',
      )
      return true
    } catch (error) {
      if (signal.aborted) return false
      const reason = await this.#deps.reasonOfEnd()
      this.#deps.log.warn(
        { event: 'postgres_restart_failed', code: codeOf(error), err: error },
        ['the embedded Postgres could not be started again', reason].filter(Boolean).join(': '),
      )
      return false
    }
  }

  async #stopOnce(): Promise<void> {
    this.#stopping.abort()
    requestShutdown(this.#postmaster)
    if (!(await endsWithin(this.#postmaster, SHUTDOWN_LIMIT_MS))) {
      // Left to finish by itself: a harder shutdown would empty the unlogged tables.
      this.#deps.log.warn(
        { event: 'postgres_stop_slow', pid: this.#postmaster.pid },
        'the embedded Postgres is still shutting down; it ends by itself',
      )
      return
    }
    await this.#finished
  }
}

async function endsWithin(postmaster: Postmaster, limitMs: number): Promise<boolean> {
  const limit = new AbortController()
  const timeout = delay(limitMs, false, { signal: limit.signal }).catch(() => false)
  const ended = await Promise.race([postmaster.ended.then(() => true), timeout])
  limit.abort()
  return ended
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await delay(ms, undefined, { signal })
  } catch (error) {
    if (!signal.aborted) throw error
  }
}
