import { nextMessage, startChild } from './child.ts'
import type { Watched } from './cpu.ts'
import type { Guard } from './guard.ts'

export type ApiName = 'sendgrid' | 'postmark' | 'resend'
export type ProviderReport =
  | { readonly kind: 'listening'; readonly port: number }
  | ({ readonly kind: 'reached'; readonly atNs: string } & ProviderCounts)
export type ProviderOrder = { readonly count: number }
type ProviderCounts = { readonly mails: number; readonly requests: number }

/** A stand-in of a provider's HTTP API, in a process of its own. */
export type Provider = {
  readonly url: string
  readonly watched: Watched
  /** Resolves when `count` mails have come in all; a mail that comes twice counts twice. One caller at a time. */
  reached(count: number): Promise<{ readonly at: bigint; readonly requests: number }>
  close(): void
}

/** Answers each request after so many milliseconds, as documented; see provider-process.ts. */
export async function startProvider(guard: Guard, api: ApiName, answersAfterMs: number): Promise<Provider> {
  const child = startChild(guard, './provider-process.ts', [api, String(answersAfterMs)])
  const first = await nextMessage<ProviderReport>(child)
  if (first.kind !== 'listening') throw new Error('the stand-in reported before it listened')
  return {
    url: `http://127.0.0.1:${first.port}`,
    watched: { name: 'provider', pid: child.pid ?? 0 },
    reached: async (count) => {
      const next = nextMessage<ProviderReport>(child)
      child.send({ count } satisfies ProviderOrder)
      const report = await next
      if (report.kind !== 'reached') throw new Error('the stand-in spoke out of turn')
      return { at: BigInt(report.atNs), requests: report.requests }
    },
    close: () => child.disconnect(),
  }
}
