import type { Log } from '../log.ts'

/** A piece of upkeep that is done again and again; it must be safe to be done twice, and to be cut off anywhere. */
export type Duty = {
  readonly name: string
  readonly everyMs: number
  /** Done by the one process that leads (see mail.lead), not by each. */
  readonly isForLeader: boolean
  /** True when there is more of it to do at once. */
  run(): Promise<boolean>
}

export type RoundDeps = {
  readonly log: Log
  readonly duties: readonly Duty[]
  /** Milliseconds that only go up. */
  readonly now: () => number
}

/**
 * One look at the duties: runs those that are due, in their order. One that fails is told once and tried again at its
 * next turn; it does not keep the others from theirs.
 */
export function createRound({ log, duties, now }: RoundDeps): () => Promise<void> {
  const dueAt = new Map<string, number>()
  const failing = new Set<string>()
  const attempt = async (duty: Duty) => {
    const startedAt = now()
    try {
      const hasMore = await duty.run()
      dueAt.set(duty.name, hasMore ? startedAt : startedAt + duty.everyMs)
      if (failing.delete(duty.name)) log.info({ duty: duty.name }, 'this duty works again')
    } catch (error) {
      dueAt.set(duty.name, startedAt + duty.everyMs)
      const level = failing.has(duty.name) ? 'debug' : 'warn'
      log[level]({ duty: duty.name, error }, 'a duty failed, will try again')
      failing.add(duty.name)
    }
  }
  return async () => {
    for (const duty of duties)
      if (now() >= (dueAt.get(duty.name) ?? Number.NEGATIVE_INFINITY)) await attempt(duty)
  }
}
