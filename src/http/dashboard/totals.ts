import type { Depth, Tally, Times } from './live-queries.ts'

/** Sums of what a snapshot lists one by one. */

export type Waiting = {
  readonly ready: number
  readonly deferred: number
  readonly inFlight: number
  /** Of the oldest of all. */
  readonly oldestAgeS: number | null
  readonly inPerS: number
  readonly outPerS: number
  /** Null while it is not known of any. */
  readonly growthPerS: number | null
}

export function waitingIn(depths: readonly Depth[]): Waiting {
  const sum = (of: (depth: Depth) => number) => depths.reduce((total, depth) => total + of(depth), 0)
  const ages = depths.flatMap(({ oldest_age_s: age }) => age ?? [])
  const growths = depths.flatMap(({ growth_per_s: growth }) => growth ?? [])
  return {
    ready: sum(({ ready }) => ready),
    deferred: sum(({ deferred }) => deferred),
    inFlight: sum(({ in_flight: inFlight }) => inFlight),
    oldestAgeS: ages.length === 0 ? null : Math.max(...ages),
    inPerS: sum(({ in_per_s: rate }) => rate),
    outPerS: sum(({ out_per_s: rate }) => rate),
    growthPerS: growths.length === 0 ? null : growths.reduce((total, growth) => total + growth, 0),
  }
}

export type Total = {
  /** By kind, a second. */
  readonly perS: (kind: string) => number
  /** To send, and how many of them failed, as mail.flow has it. */
  readonly attempts: number
  readonly failed: number
}

export function totalOf(tallies: readonly Tally[]): Total {
  const sums = new Map<string, number>()
  for (const { kind, per_s: rate } of tallies) sums.set(kind, (sums.get(kind) ?? 0) + rate)
  const perS = (kind: string) => sums.get(kind) ?? 0
  const failed = perS('deferred') + perS('unknown') + perS('dead')
  return { perS, attempts: perS('sent') + failed, failed }
}

/** Of one stream or one provider; of all when neither is named. */
export function timesOf(
  times: readonly Times[],
  kind: Times['kind'],
  place: { readonly stream?: string; readonly provider?: string } = {},
): Times | undefined {
  return times.find(
    (each) =>
      each.kind === kind &&
      each.stream === (place.stream ?? null) &&
      each.provider === (place.provider ?? null),
  )
}
