import { spawn } from 'node:child_process'
import { startChild } from './child.ts'
import type { Watched } from './cpu.ts'
import { freePort } from './free-port.ts'
import type { Guard } from './guard.ts'
import { findProgram } from './program.ts'

export type SinkReport =
  | { readonly kind: 'listening'; readonly port: number }
  | { readonly kind: 'progress'; readonly accepted: number }
  | { readonly kind: 'reached'; readonly accepted: number; readonly atNs: string }
export type SinkOrder = { readonly count: number }

/** Where mail ends. Its count never goes back. */
export type Sink = {
  readonly name: string
  readonly url: string
  readonly watched: Watched
  accepted(): number
  /**
   * The moment, on the machine's monotonic clock in nanoseconds, at which `count` mails had been accepted;
   * undefined when no mail at all came for as long as `STALL_MS`. One caller at a time.
   */
  reached(count: number): Promise<bigint | undefined>
  close(): void
}

/** Long after every retry that Sluice makes by itself within seconds. */
const STALL_MS = 60_000

/** The benchmark's own sink: cheap, and it tells the moment of acceptance. */
export async function startOwnSink(guard: Guard): Promise<Sink> {
  const child = startChild(guard, './sink-process.ts')
  const tally = new Tally((count) => child.send({ count } satisfies SinkOrder))
  const listening = Promise.withResolvers<number>()
  child.on('exit', () => listening.reject(new Error('the sink of the benchmark ended')))
  child.on('message', (report: SinkReport) => {
    if (report.kind === 'listening') listening.resolve(report.port)
    else tally.note(report.accepted, report.kind === 'reached' ? BigInt(report.atNs) : undefined)
  })
  const port = await listening.promise
  return sinkOf('own sink', port, child.pid, tally, () => child.disconnect())
}

/** Postfix's `smtp-sink` where it is installed, the fairest receiver known: a small C program. */
export async function startBestSink(guard: Guard): Promise<Sink> {
  const program = findProgram('smtp-sink')
  if (program === undefined) return startOwnSink(guard)
  const port = await freePort()
  const user = process.getuid?.() === 0 ? ['-u', 'nobody'] : []
  // -c writes a running count, once a mail.
  const child = spawn(program, ['-c', ...user, `127.0.0.1:${port}`, '1024'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  guard.watch(child)
  const tally = new Tally()
  child.stdout.on('data', (chunk: Buffer) => {
    const count = /.*mesg=(\d+)/s.exec(chunk.toString('latin1'))?.[1]
    if (count !== undefined) tally.note(Number(count), process.hrtime.bigint())
  })
  return sinkOf("Postfix's smtp-sink", port, child.pid, tally, () => child.kill())
}

function sinkOf(name: string, port: number, pid: number | undefined, tally: Tally, close: () => void): Sink {
  return {
    name,
    url: `smtp://127.0.0.1:${port}`,
    watched: { name: 'sink', pid: pid ?? 0 },
    accepted: () => tally.accepted,
    reached: (count) => tally.reached(count),
    close,
  }
}

class Tally {
  accepted = 0
  readonly #ask: (count: number) => void
  #waiter: { readonly count: number; readonly done: (atNs: bigint) => void } | undefined

  constructor(ask: (count: number) => void = () => undefined) {
    this.#ask = ask
  }

  note(accepted: number, atNs: bigint | undefined): void {
    this.accepted = Math.max(this.accepted, accepted)
    if (this.#waiter === undefined || atNs === undefined || this.accepted < this.#waiter.count) return
    this.#waiter.done(atNs)
  }

  async reached(count: number): Promise<bigint | undefined> {
    if (this.accepted >= count) return process.hrtime.bigint()
    const { promise, resolve } = Promise.withResolvers<bigint | undefined>()
    this.#waiter = { count, done: resolve }
    this.#ask(count)
    let seen = this.accepted
    const stall = setInterval(() => {
      if (this.accepted === seen) resolve(undefined)
      seen = this.accepted
    }, STALL_MS)
    const atNs = await promise
    clearInterval(stall)
    this.#waiter = undefined
    return atNs
  }
}
