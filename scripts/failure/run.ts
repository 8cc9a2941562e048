import type { Scope } from '../../test/support/scope.ts'
import type { Guard } from '../bench/guard.ts'
import type { Ledger, Verdict } from './ledger.ts'

/** `full` is what docs/guarantees.md reports; `short` shows the same in seconds, in every `npm test`. */
export type Form = 'full' | 'short'

/** What a run works in. What it starts ends with it, the last first. */
export type Scene = Scope & {
  readonly ledger: Ledger
  /** Progress, for whoever watches. */
  say(line: string): void
  /** Ends what must not outlive this process; the suite has means of its own. */
  readonly guard: Guard | undefined
}

export type Outcome = {
  readonly verdict: Verdict
  /** Seconds: the longest time between two mails that came out, whether or not anything waited. */
  readonly longestGapS: number
  /** Seconds from each fault until what it hit went on; empty where the run has no such moment. */
  readonly recoveriesS: readonly number[]
  /** Promises that did not hold, a sentence each; what the verdict shows is added by `judge`. */
  readonly broken: readonly string[]
  /** What else was measured, by name with its unit, such as `{ 'kills': 50, 'answers 503': 12 }`. */
  readonly figures: Readonly<Record<string, number | string>>
  /** How many copies beyond the first the promise allows: those in flight at a fault. 0 by default. */
  readonly allowedDuplicates?: number
  /** How many messages may end where a person can see them instead of being delivered. 0 by default. */
  readonly allowedSetAside?: number
}

export type FailureRun = {
  readonly name: string
  /** What must hold, as one sentence. */
  readonly promise: string
  /** After so many minutes the full form has failed. */
  readonly limitMinutes: number
  /** False: what it shows does not depend on the Postgres below. */
  readonly isOfPostgres: boolean
  /** What this machine lacks for it, as a sentence; undefined when nothing. */
  missing(): string | undefined
  perform(scene: Scene, form: Form): Promise<Outcome>
}

/** A run in two sizes: `perform` gets the numbers of the form that is asked for. */
export function failureRun<Scale>(definition: {
  readonly name: string
  readonly promise: string
  readonly limitMinutes: number
  /** Unset: true. */
  readonly isOfPostgres?: boolean
  readonly full: Scale
  readonly short: Scale
  readonly missing?: () => string | undefined
  perform(scene: Scene, scale: Scale): Promise<Outcome>
}): FailureRun {
  const { name, promise, limitMinutes, isOfPostgres = true, missing = () => undefined } = definition
  return {
    name,
    promise,
    limitMinutes,
    isOfPostgres,
    missing,
    perform: (scene, form) => definition.perform(scene, definition[form]),
  }
}

/** Every promise that an outcome breaks, a sentence each; none when it holds. */
export function judge({ verdict, broken, allowedDuplicates = 0, allowedSetAside = 0 }: Outcome): string[] {
  const { lost, duplicated, unexpected, setAside, stuck } = verdict
  const some = (keys: readonly string[]) => keys.slice(0, 5).join(', ')
  return [
    ...(lost.length > 0 ? [`${lost.length} acknowledged messages are lost: ${some(lost)}`] : []),
    ...(duplicated > allowedDuplicates
      ? [`${duplicated} copies were sent twice, at most ${allowedDuplicates} may be`]
      : []),
    ...(unexpected.length > 0 ? [`${unexpected.length} mails nobody handed over: ${some(unexpected)}`] : []),
    ...(setAside > allowedSetAside
      ? [`${setAside} messages ended dead, unknown, suppressed or canceled, at most ${allowedSetAside} may`]
      : []),
    ...stuck,
    ...broken,
  ]
}
