import { ByteBudget } from './byte-budget.ts'
import type { SendOutcome } from './transport.ts'

/** A content of mail.attachment: its digest in hex, and its bytes. */
export type StoredContent = { readonly sha256: string; readonly size: number }

/** A piece of one; `start` counts from 0. */
export type ContentSlice = { readonly sha256: string; readonly start: number; readonly length: number }

/** The bytes of each slice at its place; undefined where there is no such content. */
export type ReadSlices = (slices: readonly ContentSlice[]) => Promise<readonly (Buffer | undefined)[]>

/** What a send needs while it is under way. A digest that is nowhere is not in `contents`. */
export type Held = { readonly contents: ReadonlyMap<string, Buffer>; readonly release: () => void }

const MB = 1_024 * 1_024
/** Of attachments in flight. A mail of them is a third larger, and there are both at once. */
const MAX_IN_FLIGHT_BYTES = 64 * MB
const MAX_KEPT_BYTES = 32 * MB
/** Since its latest use: mails of one campaign follow each other within seconds, and an invoice is used once. */
const KEPT_MS = 60_000
/** The driver has what it reads three times over, so large contents are read in pieces. */
const MAX_READ_BYTES = 4 * MB

export const NOTHING_HELD: Held = { contents: new Map(), release: () => undefined }

type Kept = { readonly buffer: Buffer; readonly usedAt: number }
type Load = { readonly content: StoredContent; readonly done: PromiseWithResolvers<Buffer | undefined> }

/**
 * The bytes of attachments, for all sends of this process. What is asked for at the same moment is read with one
 * statement, and nothing twice while it is kept: a newsletter's one attachment is read once, not with each of its mails.
 */
export class AttachmentStore {
  readonly #read: ReadSlices
  readonly #budget: ByteBudget
  readonly #maxKeptBytes: number
  /** By digest, the one used longest ago first. */
  readonly #kept = new Map<string, Kept>()
  #keptBytes = 0
  #timer: NodeJS.Timeout | undefined
  readonly #loading = new Map<string, Promise<Buffer | undefined>>()
  #wanted: Load[] = []

  constructor(read: ReadSlices, limits: { maxInFlightBytes?: number; maxKeptBytes?: number } = {}) {
    this.#read = read
    this.#budget = new ByteBudget(limits.maxInFlightBytes ?? MAX_IN_FLIGHT_BYTES)
    this.#maxKeptBytes = limits.maxKeptBytes ?? MAX_KEPT_BYTES
  }

  /** Waits for room, then loads; the outcome of the send when it is stopped or the database does not answer. */
  async hold(
    owner: string,
    wanted: readonly StoredContent[],
    signal: AbortSignal,
  ): Promise<Held | SendOutcome> {
    const bytes = wanted.reduce((sum, { size }) => sum + size, 0)
    const release = await this.#budget.take(owner, bytes, signal)
    if (release === undefined) return STOPPED
    try {
      const contents = new Map<string, Buffer>()
      const loads = wanted.map(async (each) => {
        const content = await this.#contentOf(each)
        if (content !== undefined) contents.set(each.sha256, content)
      })
      await Promise.all(loads)
      return { contents, release }
    } catch (error) {
      release()
      const reason = `the attachments could not be read: ${error instanceof Error ? error.message : String(error)}`
      return { kind: 'unreachable', code: 'attachments_not_loaded', reason }
    }
  }

  #contentOf(content: StoredContent): Buffer | undefined | Promise<Buffer | undefined> {
    const kept = this.#kept.get(content.sha256)
    if (kept !== undefined) {
      this.#kept.delete(content.sha256)
      this.#kept.set(content.sha256, { buffer: kept.buffer, usedAt: performance.now() })
      return kept.buffer
    }
    const loading = this.#loading.get(content.sha256)
    if (loading !== undefined) return loading
    const done = Promise.withResolvers<Buffer | undefined>()
    this.#loading.set(content.sha256, done.promise)
    // All that is launched together asks within one turn of the loop.
    if (this.#wanted.length === 0) setImmediate(() => this.#loadWanted())
    this.#wanted.push({ content, done })
    return done.promise
  }

  async #loadWanted(): Promise<void> {
    const loads = this.#wanted
    this.#wanted = []
    try {
      const buffers = await readAll(
        this.#read,
        loads.map(({ content }) => content),
      )
      for (const [index, { content, done }] of loads.entries()) {
        const buffer = buffers[index]
        if (buffer !== undefined) this.#keep(content.sha256, buffer)
        done.resolve(buffer)
      }
    } catch (error) {
      for (const { done } of loads) done.reject(error)
    } finally {
      for (const { content } of loads) this.#loading.delete(content.sha256)
    }
  }

  #keep(sha256: string, buffer: Buffer): void {
    if (buffer.length > this.#maxKeptBytes) return
    this.#kept.set(sha256, { buffer, usedAt: performance.now() })
    this.#keptBytes += buffer.length
    this.#drop()
    this.#dropLater()
  }

  /** Without those that are too many, or were not used for long. */
  #drop(): void {
    const longAgo = performance.now() - KEPT_MS
    for (const [oldest, { buffer, usedAt }] of this.#kept) {
      if (this.#keptBytes <= this.#maxKeptBytes && usedAt > longAgo) break
      this.#kept.delete(oldest)
      this.#keptBytes -= buffer.length
    }
  }

  #dropLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#drop()
      if (this.#kept.size > 0) this.#dropLater()
    }, KEPT_MS).unref()
  }
}

const STOPPED: SendOutcome = {
  kind: 'unreachable',
  code: 'aborted',
  reason: 'the send was stopped before it began',
}

/** Each content in a buffer of its own; undefined for one that is gone or is not as long as the message says. */
async function readAll(
  read: ReadSlices,
  contents: readonly StoredContent[],
): Promise<readonly (Buffer | undefined)[]> {
  const buffers = new Map(contents.map(({ sha256, size }) => [sha256, Buffer.allocUnsafeSlow(size)]))
  for (const slices of readsOf(contents)) {
    const pieces = await read(slices)
    for (const [index, { sha256, start, length }] of slices.entries()) {
      const piece = pieces[index]
      if (piece?.length === length) buffers.get(sha256)?.set(piece, start)
      else buffers.delete(sha256)
    }
  }
  return contents.map(({ sha256 }) => buffers.get(sha256))
}

/** As few reads as their size allows, almost always one. */
function readsOf(contents: readonly StoredContent[]): ContentSlice[][] {
  const reads: ContentSlice[][] = []
  let room = 0
  for (const { sha256, size } of contents) {
    let start = 0
    do {
      if (room === 0) {
        reads.push([])
        room = MAX_READ_BYTES
      }
      const length = Math.min(size - start, room)
      reads.at(-1)?.push({ sha256, start, length })
      start += length
      room -= length
    } while (start < size)
  }
  return reads
}
