import { nextMessage, startChild } from './child.ts'
import type { MailKind } from './contenders.ts'
import type { Watched } from './cpu.ts'
import type { Guard } from './guard.ts'

export type BareOrder = { readonly first: number; readonly count: number }
export type BareReport = { readonly startedAtNs: string }

export type BareLoop = {
  readonly watched: Watched
  /** Sends mails `first` to `first + count - 1`; resolves when all were accepted, with the moment it began. */
  send(first: number, count: number): Promise<bigint>
  close(): void
}

/** The bare loop in a process of its own, as Sluice has one; see bare-loop-process.ts. */
export function startBareLoop(guard: Guard, smtpUrl: string, mail: MailKind): BareLoop {
  const child = startChild(guard, './bare-loop-process.ts', [smtpUrl, mail])
  return {
    watched: { name: 'loop', pid: child.pid ?? 0 },
    send: async (first, count) => {
      const done = nextMessage<BareReport>(child)
      child.send({ first, count } satisfies BareOrder)
      return BigInt((await done).startedAtNs)
    },
    close: () => child.disconnect(),
  }
}
