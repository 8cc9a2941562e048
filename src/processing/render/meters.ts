import type { Context, Emitter } from 'liquidjs'
import { toValue } from 'liquidjs'
import type { RenderFailureCode } from './contract.ts'
import { MAX_VALUE_CHARS, MAX_WORK_UNITS } from './limits.ts'

/** Thrown through the engine, which wraps it: the code survives where a message text would have to be matched. */
export class RenderStop extends Error {
  readonly code: RenderFailureCode

  constructor(code: RenderFailureCode, message: string) {
    super(message)
    this.name = 'RenderStop'
    this.code = code
  }
}

type Limiter = Context['memoryLimit']

/** Stands in for the engine's own memory limiter, to fail with a code and to bound each single charge as well. */
class WorkMeter {
  #used = 0

  use(count: number): void {
    const units = Number(count)
    if (!(units > 0)) return
    this.#used += units
    if (units > MAX_VALUE_CHARS || this.#used > MAX_WORK_UNITS) {
      throw new RenderStop('template_memory', 'it works on more data than one message may hold in memory')
    }
  }

  check(): void {
    // The work meter has no clock.
  }
}

/** What this thread has worked. On a crowded machine a good template waits for a core longer than it may take. */
export function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1e3
}

/**
 * Stands in for the engine's own clock, which the renderer asks before every tag. What counts is the thread's own work;
 * that is asked for only when the clock on the wall says that the limit may have been reached.
 */
class ClockMeter {
  readonly #startedCpuMs: number
  readonly #softStopMs: number
  #askAt: number

  constructor(startedCpuMs: number, softStopMs: number) {
    this.#startedCpuMs = startedCpuMs
    this.#softStopMs = softStopMs
    this.#askAt = performance.now() + softStopMs
  }

  use(): void {
    // The clock meter counts no work.
  }

  check(now: number): void {
    if (now <= this.#askAt) return
    const leftMs = this.#startedCpuMs + this.#softStopMs - threadCpuMs()
    if (leftMs <= 0) {
      throw new RenderStop('template_timeout', `rendering took longer than ${this.#softStopMs} ms`)
    }
    this.#askAt = now + leftMs
  }
}

// The engine only ever calls `use` and `check`, but types its limiters as a class with private members.
export function workMeter(): Limiter {
  return new WorkMeter() as unknown as Limiter
}

export function clockMeter(startedCpuMs: number, softStopMs: number): Limiter {
  return new ClockMeter(startedCpuMs, softStopMs) as unknown as Limiter
}

/** Collects output, and stops a loop at the first character too many rather than after building it all. */
export class CappedEmitter implements Emitter {
  buffer = ''
  readonly #maxChars: number

  constructor(maxChars: number) {
    this.#maxChars = maxChars
  }

  write(value: unknown): void {
    const text = written(value)
    if (this.buffer.length + text.length > this.#maxChars) {
      throw new RenderStop('output_too_large', `it is longer than ${this.#maxChars} characters`)
    }
    this.buffer += text
  }
}

/** A value as the engine writes it into the output: nothing for nil, arrays without separators. */
export function written(value: unknown): string {
  if (typeof value === 'string') return value
  const plain: unknown = toValue(value)
  if (plain === null || plain === undefined) return ''
  return Array.isArray(plain) ? plain.map(written).join('') : String(plain)
}

/**
 * Fails unless `value` is at most MAX_VALUE_CHARS when written out. An array may hold the same large value many times,
 * and nested so the sum grows by powers: the walk stops as soon as the bound is passed. An object counts little, as it
 * writes as `[object Object]`; `json` counts for itself.
 */
export function assertBounded(value: unknown): void {
  if (typeof value === 'string') assertLength(value.length)
  else if (Array.isArray(value)) assertLength(arrayChars(value))
}

export function assertLength(chars: number): void {
  if (chars > MAX_VALUE_CHARS) {
    throw new RenderStop('template_memory', `it makes a value longer than ${MAX_VALUE_CHARS} characters`)
  }
}

/** Exact up to MAX_VALUE_CHARS, and some number above it beyond. */
function arrayChars(array: readonly unknown[]): number {
  const open: (readonly unknown[])[] = [array]
  let chars = 0
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    chars += next.length
    for (const item of next) {
      if (chars > MAX_VALUE_CHARS) return chars
      if (typeof item === 'string') chars += item.length
      else if (Array.isArray(item)) open.push(item)
    }
  }
  return chars
}
