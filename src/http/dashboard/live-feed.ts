import { setTimeout as delay } from 'node:timers/promises'
import type { Log } from '../../log.ts'

/**
 * Looks once a second while somebody watches, for all who do. Each viewer asks for what is newer than what it has, so
 * one that reads slowly passes over frames and holds none.
 */

const EACH_MS = 1_000

/** A named piece of the page, and the frame in which it last changed. */
type Piece = { readonly text: string; readonly changedIn: number }

export type Frame = {
  readonly number: number
  readonly at: string
  /** Set while looking fails: the pieces are those of the latest look that worked. */
  readonly problem: string | undefined
  readonly pieces: ReadonlyMap<string, Piece>
}

export type Look = { readonly at: string; readonly pieces: Readonly<Record<string, string>> }

type FeedDeps = {
  readonly log: Pick<Log, 'warn' | 'info'>
  readonly look: () => Promise<Look>
  /** Ends all viewers. */
  readonly stopping: AbortSignal
  readonly maxViewers: number
}

export type Viewer = {
  /** Waits for a frame after that one; undefined once the viewer or the feed has ended. */
  next(after: number): Promise<Frame | undefined>
  leave(): void
  /** Aborted when it is ended from here. */
  readonly ended: AbortSignal
}

type Seat = { readonly name: string; readonly end: AbortController }

export class LiveFeed {
  readonly #deps: FeedDeps
  readonly #seats = new Set<Seat>()
  #frame: Frame | undefined
  #waiters: (() => void)[] = []
  #looking: Promise<void> | undefined

  constructor(deps: FeedDeps) {
    this.#deps = deps
  }

  /** Undefined when there are as many viewers as there may be. */
  join(name: string): Viewer | undefined {
    if (this.#seats.size >= this.#deps.maxViewers) return undefined
    const seat: Seat = { name, end: new AbortController() }
    this.#seats.add(seat)
    if (this.#deps.stopping.aborted) this.#end(seat)
    this.#looking ??= this.#lookOn()
    return {
      ended: seat.end.signal,
      next: (after) => this.#next(seat, after),
      leave: () => this.#end(seat),
    }
  }

  /** Ends the viewers of that name. */
  dismiss(name: string): void {
    for (const seat of this.#seats) if (seat.name === name) this.#end(seat)
  }

  #end(seat: Seat): void {
    this.#seats.delete(seat)
    seat.end.abort()
    this.#wake()
  }

  async #next(seat: Seat, after: number): Promise<Frame | undefined> {
    while (!seat.end.signal.aborted) {
      if (this.#frame !== undefined && this.#frame.number > after) return this.#frame
      await new Promise<void>((resolve) => this.#waiters.push(resolve))
    }
    return undefined
  }

  #wake(): void {
    const waiters = this.#waiters
    this.#waiters = []
    for (const resolve of waiters) resolve()
  }

  /** Ends by itself when the last viewer has left; the next one begins anew, with a look of its own. */
  async #lookOn(): Promise<void> {
    const { stopping } = this.#deps
    const endAll = () => {
      for (const seat of this.#seats) this.#end(seat)
    }
    stopping.addEventListener('abort', endAll)
    this.#frame = undefined
    let number = 0
    while (this.#seats.size > 0) {
      number += 1
      this.#frame = await this.#look(number, this.#frame)
      this.#wake()
      await delay(EACH_MS, undefined, { ref: false })
    }
    stopping.removeEventListener('abort', endAll)
    this.#looking = undefined
  }

  async #look(number: number, before: Frame | undefined): Promise<Frame> {
    try {
      const { at, pieces } = await this.#deps.look()
      if (before?.problem !== undefined) this.#deps.log.info({}, 'the overview is live again')
      return { number, at, problem: undefined, pieces: merge(number, pieces, before?.pieces) }
    } catch (error) {
      if (before?.problem === undefined) this.#deps.log.warn({ error }, 'the live overview cannot be read')
      const problem = 'The database cannot be reached: these are the latest numbers there were.'
      return { number, at: before?.at ?? '', problem, pieces: before?.pieces ?? new Map() }
    }
  }
}

function merge(
  number: number,
  pieces: Readonly<Record<string, string>>,
  before: ReadonlyMap<string, Piece> | undefined,
): Map<string, Piece> {
  return new Map(
    Object.entries(pieces).map(([name, text]) => {
      const known = before?.get(name)
      return [name, known?.text === text ? known : { text, changedIn: number }]
    }),
  )
}
