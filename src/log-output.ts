import { fstatSync, writeSync } from 'node:fs'
import { Socket } from 'node:net'

/** For a reader that is slow: what does not fit any more is dropped and counted. */
const KEPT_BYTES = 1024 * 1024
const RETRY_MS = 50
/** At the end of the process, for the reader to take what is left. */
const LAST_MS = 500

/**
 * Writes lines at once, since the last ones before a crash are those that are needed; and never waits for whoever should read
 * them. A pipe that nobody empties, a full disk, a reader that went away: all of it costs lines of the log and no mail.
 */
export class LogOutput {
  readonly #fd: number
  readonly #onRoom: (dropped: number) => void
  #waiting: Buffer[] = []
  #waitingBytes = 0
  #dropped = 0
  #isGone = false
  /** The line before ended in the middle. */
  #isTorn = false
  #retry: NodeJS.Timeout | undefined
  /** Held: collected, it would close the file. */
  // biome-ignore lint/correctness/noUnusedPrivateClassMembers: holding it is its use
  readonly #socket: Socket | undefined

  /** `onRoom` is told, as soon as lines are taken again, how many were dropped. */
  constructor(fd: number, onRoom: (dropped: number) => void) {
    this.#fd = fd
    this.#onRoom = onRoom
    const kind = fstatSync(fd)
    // Only opened for its side effect: from then on a write says EAGAIN rather than wait. A terminal stays as it is, for the
    // shell has it too, and a person who stops it (Ctrl-S) sees what they do.
    if (kind.isFIFO() || kind.isSocket())
      this.#socket = new Socket({ fd, readable: false, writable: true }).unref()
    process.once('exit', () => this.#finish())
  }

  write(line: string): void {
    if (this.#isGone) return
    const bytes = Buffer.from(line)
    if (this.#waiting.length > 0) this.#keep(bytes)
    else this.#conclude(bytes, this.#send(bytes))
  }

  /** How many bytes of it were taken; undefined when it is lost. */
  #send(line: Buffer): number | undefined {
    let taken = 0
    try {
      if (this.#isTorn) writeSync(this.#fd, '\n')
      this.#isTorn = false
      while (taken < line.length) taken += writeSync(this.#fd, line, taken)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EAGAIN') return taken
      // Nobody will ever read it. After anything else, such as a full disk, the next line may fare better.
      if (code === 'EPIPE') this.#isGone = true
      this.#dropped += 1
      this.#isTorn ||= taken > 0
      return undefined
    }
    return taken
  }

  #conclude(bytes: Buffer, taken: number | undefined): void {
    if (taken === undefined) return
    if (taken === bytes.length) this.#tellDropped()
    else this.#keep(bytes.subarray(taken))
  }

  #keep(bytes: Buffer): void {
    if (this.#waitingBytes + bytes.length > KEPT_BYTES) {
      this.#dropped += 1
      return
    }
    this.#waiting.push(bytes)
    this.#waitingBytes += bytes.length
    this.#retry ??= setInterval(() => this.#drain(), RETRY_MS).unref()
  }

  /** True when nothing waits any more. */
  #drain(): boolean {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const taken = this.#isGone ? undefined : this.#send(first)
      this.#waitingBytes -= taken ?? first.length
      if (taken !== undefined && taken < first.length) {
        this.#waiting[0] = first.subarray(taken)
        return false
      }
      this.#waiting.shift()
    }
    clearInterval(this.#retry)
    this.#retry = undefined
    if (!this.#isGone) this.#tellDropped()
    return true
  }

  #tellDropped(): void {
    const dropped = this.#dropped
    if (dropped === 0) return
    this.#dropped = 0
    this.#onRoom(dropped)
  }

  #finish(): void {
    const until = performance.now() + LAST_MS
    const pause = new Int32Array(new SharedArrayBuffer(4))
    while (!this.#drain() && performance.now() < until) Atomics.wait(pause, 0, 0, RETRY_MS)
  }
}
