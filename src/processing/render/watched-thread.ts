import { getCompileCacheDir } from 'node:module'
import { dirname } from 'node:path'
import { Worker } from 'node:worker_threads'
import { THREAD_NURSERY_MB } from './limits.ts'
import { NO_MESSAGE, type ThreadPost, type ThreadReport, type ThreadSettings } from './thread-messages.ts'

export type ThreadOptions = Omit<ThreadSettings, 'position'> & {
  readonly hardStopMs: number
  readonly heapMb: number
}

/**
 * How a thread ended. `position` is the message it was on, in the post it was given; NO_MESSAGE between messages.
 * `whileDeriving`: the message was rendered, and only the text made of its HTML was missing.
 */
export type ThreadEnd = {
  readonly cause: 'stuck' | 'out_of_memory' | 'crashed'
  readonly position: number
  readonly whileDeriving: boolean
  readonly error: Error
}

export type ThreadEvents = {
  readonly report: (report: ThreadReport) => void
  readonly ended: (end: ThreadEnd) => void
}

const LOOK_EVERY_MS = 25

/** Starting a thread and reading its modules takes 100 ms, on a crowded machine perhaps seconds. */
const MAX_SILENCE_MS = 20_000

/**
 * One worker thread, killed when it spends more than `hardStopMs` on one message. While it works it is looked at every
 * LOOK_EVERY_MS; at rest there is no timer and it does not keep the process alive.
 * `ended` is called once at most, and nothing is called after it or after `stop`.
 */
export class WatchedThread {
  readonly #worker: Worker
  readonly #position = new Int32Array(new SharedArrayBuffer(12))
  readonly #options: ThreadOptions
  readonly #events: ThreadEvents
  #timer: NodeJS.Timeout | undefined
  #lookedAt = 0
  #seenAt = NO_MESSAGE
  #unchangedMs = 0
  #over = false
  #error: Error | undefined

  constructor(options: ThreadOptions, events: ThreadEvents) {
    this.#options = options
    this.#events = events
    const { softStopMs, slowMs, skipsSlow } = options
    const workerData: ThreadSettings = { position: this.#position.buffer, softStopMs, slowMs, skipsSlow }
    this.#position[0] = NO_MESSAGE
    this.#worker = new Worker(new URL('./render-thread.ts', import.meta.url), {
      workerData,
      // No secrets of the service and no arguments: this thread works for strangers.
      env: compileCache(),
      execArgv: [],
      name: 'render',
      resourceLimits: {
        maxOldGenerationSizeMb: options.heapMb,
        maxYoungGenerationSizeMb: THREAD_NURSERY_MB,
      },
    })
    this.#worker.unref()
    this.#worker.on('message', (report: ThreadReport) => this.#received(report))
    this.#worker.on('error', (error: Error) => {
      this.#error = error
    })
    this.#worker.on('exit', (code) => this.#exited(code))
  }

  /** One post at a time: the next only after a report that says `done`. */
  post(post: ThreadPost, turnMs: number): void {
    this.#worker.ref()
    this.limitTurn(turnMs)
    this.#position[0] = NO_MESSAGE
    this.#seenAt = NO_MESSAGE
    this.#unchangedMs = 0
    this.#lookedAt = performance.now()
    this.#timer = setInterval(() => this.#look(), LOOK_EVERY_MS)
    this.#worker.postMessage(post)
  }

  /** Between two messages, and after one at the least, the thread leaves the rest when it has worked for so long. */
  limitTurn(turnMs: number): void {
    Atomics.store(this.#position, 2, turnMs)
  }

  async stop(): Promise<void> {
    this.#over = true
    this.#rest()
    await this.#worker.terminate()
  }

  #received(report: ThreadReport): void {
    if (this.#over) return
    if (report.done) this.#rest()
    this.#events.report(report)
  }

  #rest(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
    this.#worker.unref()
  }

  /**
   * A look that comes late, as this thread was busy or the machine asleep, counts no more than two: innocent messages
   * must not be taken for stuck ones.
   */
  #look(): void {
    const now = performance.now()
    const sinceLastMs = Math.min(now - this.#lookedAt, 2 * LOOK_EVERY_MS)
    const position = Atomics.load(this.#position, 0)
    this.#lookedAt = now
    this.#unchangedMs = position === this.#seenAt ? this.#unchangedMs + sinceLastMs : 0
    this.#seenAt = position
    const allowedMs = position === NO_MESSAGE ? MAX_SILENCE_MS : this.#options.hardStopMs
    if (this.#unchangedMs >= allowedMs) this.#end('stuck', new Error(`no progress for ${allowedMs} ms`))
  }

  #exited(exitCode: number): void {
    const error = this.#error ?? new Error(`the thread ended with code ${exitCode}`)
    const outOfMemory = 'code' in error && error.code === 'ERR_WORKER_OUT_OF_MEMORY'
    this.#end(outOfMemory ? 'out_of_memory' : 'crashed', error)
  }

  #end(cause: ThreadEnd['cause'], error: Error): void {
    if (this.#over) return
    const position = Atomics.load(this.#position, 0)
    const whileDeriving = Atomics.load(this.#position, 1) === 1
    // Not awaited: whether the old thread is gone yet makes no difference to the new one.
    void this.stop()
    this.#events.ended({ cause, position, whileDeriving, error })
  }
}

/** The one of this process, if it has one: a thread does not come to it by itself. */
function compileCache(): { readonly NODE_COMPILE_CACHE?: string } {
  // It is in a directory for this Node, its flags and this user.
  const dir = getCompileCacheDir()
  return dir === undefined ? {} : { NODE_COMPILE_CACHE: dirname(dir) }
}
