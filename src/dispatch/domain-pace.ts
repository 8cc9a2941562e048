import type { DomainLimit } from '../catalog.ts'

/**
 * When mail to a limited domain goes. Pure arithmetic over the rows of `mail.domain_pace`, which the caller has locked.
 *
 * Each clock of a limit is put forward by what it lets go (the generic cell rate algorithm). `spentUntil`, at the full
 * quota, says what may go now, and is never passed. `plannedUntil`, at the utilization of it, is a queue without a list:
 * who may not go takes the next turn in it, and comes back then. So each mail of a flood is put back once, others are not
 * held up behind it, and nobody asks before there is hope. Who comes back in time finds room, as less is planned than may
 * be spent. What is left of the quota (`lateUntil`) is the queue of those who come late, when the worker had no slot or
 * the provider was paused, and find none: they need not start again at the end, nor do they all come at once.
 *
 * Urgent streams have a queue of their own, so they never wait for a turn behind the others; and they may spend the burst
 * twice. The others see that it is spent. Mail to several domains needs room in each, and comes back at the latest turn.
 */
export type Pace = {
  readonly limit: DomainLimit
  readonly domain: string
  /** Milliseconds since the epoch, by the database's clock. */
  spentUntil: number
  plannedUntil: number
  plannedUrgentUntil: number
  lateUntil: number
}

export type Applicant = {
  /** Of each limit that holds for some of its recipients. */
  readonly paces: readonly Pace[]
  /** It had to wait before, and comes back at its turn. */
  readonly hasTurn: boolean
}

/** Undefined: it goes now. Otherwise when its turn is, and whose limit it waits for. */
export type Verdict = { readonly comesAt: number; readonly pace: Pace } | undefined

/** Decides in the order given, and moves the paces on. */
export function decideTurns(
  applicants: readonly Applicant[],
  { now, isUrgent }: { readonly now: number; readonly isUrgent: boolean },
): Verdict[] {
  return applicants.map(({ paces, hasTurn }) => {
    const isNext = hasTurn || paces.every((pace) => turnAt(pace, isUrgent) <= now)
    if (isNext && paces.every((pace) => roomAt(pace, isUrgent) <= now)) {
      for (const pace of paces) {
        pace.spentUntil = Math.max(pace.spentUntil, now) + spacingOf(pace)
        if (!hasTurn) plan(pace, now, isUrgent)
      }
      return undefined
    }
    const turn = latest(paces, (pace) => Math.max(turnAt(pace, isUrgent), roomAt(pace, isUrgent)))
    const lateTurn = latest(paces, (pace) => Math.max(pace.lateUntil, roomAt(pace, isUrgent)))
    if (hasTurn && lateTurn.comesAt < turn.comesAt) {
      for (const pace of paces)
        pace.lateUntil = Math.max(pace.lateUntil, lateTurn.comesAt) + lateSpacingOf(pace)
      return lateTurn
    }
    for (const pace of paces) plan(pace, now, isUrgent)
    return turn
  })
}

function latest(paces: readonly Pace[], timeOf: (pace: Pace) => number): { comesAt: number; pace: Pace } {
  return paces
    .map((pace) => ({ comesAt: timeOf(pace), pace }))
    .reduce((last, each) => (each.comesAt > last.comesAt ? each : last))
}

/** From when on one more may be sent. */
function roomAt(pace: Pace, isUrgent: boolean): number {
  const ahead = pace.limit.burst * (isUrgent ? 2 : 1) - 1
  return pace.spentUntil - ahead * spacingOf(pace)
}

/** When the next in the queue has its turn. */
function turnAt(pace: Pace, isUrgent: boolean): number {
  const end = isUrgent ? pace.plannedUrgentUntil : pace.plannedUntil
  return end - (pace.limit.burst - 1) * plannedSpacingOf(pace)
}

function plan(pace: Pace, now: number, isUrgent: boolean): void {
  if (isUrgent) pace.plannedUrgentUntil = Math.max(pace.plannedUrgentUntil, now) + plannedSpacingOf(pace)
  else pace.plannedUntil = Math.max(pace.plannedUntil, now) + plannedSpacingOf(pace)
}

function spacingOf({ limit }: Pace): number {
  return limit.windowMs / limit.quota
}

function plannedSpacingOf(pace: Pace): number {
  return spacingOf(pace) / pace.limit.utilization
}

/** Of what is not planned; with nothing left of it, nobody is late, and all queue anew. */
function lateSpacingOf(pace: Pace): number {
  return spacingOf(pace) / Math.max(1 - pace.limit.utilization, 0.001)
}

/** For people: `mail to gmail.com is limited to 20 a second`. */
export function limitText({ domain, limit }: Pace): string {
  const { quota, windowMs, provider } = limit
  const units: Readonly<Record<number, string>> = {
    1000: 'a second',
    60000: 'a minute',
    3600000: 'an hour',
    86400000: 'a day',
  }
  const through = provider === null ? '' : ` through ${provider}`
  return `mail to ${domain}${through} is limited to ${quota} ${units[windowMs] ?? `in ${windowMs / 1_000} s`}`
}
