import { Ledger } from './ledger.ts'
import type { FailureRun, Form, Outcome, Scene } from './run.ts'

export type SceneOptions = Pick<Scene, 'guard' | 'say'> & {
  /** Aborts the run from outside, such as by Ctrl-C. */
  readonly signal?: AbortSignal
}

/** Performs a run in a scene of its own, within its limit, and ends all it started. Rejects when it could not be performed. */
export async function performRun(run: FailureRun, form: Form, options: SceneOptions): Promise<Outcome> {
  const closers: (() => unknown)[] = []
  const scene: Scene = {
    ledger: new Ledger(),
    guard: options.guard,
    say: options.say,
    diagnostic: options.say,
    after: (close) => closers.push(close),
  }
  const limit = AbortSignal.timeout(run.limitMinutes * 60_000)
  const ended = Promise.withResolvers<never>()
  const stop = (signal: AbortSignal, why: string) =>
    signal.addEventListener('abort', () => ended.reject(new Error(why)), { once: true })
  stop(limit, `${run.name} did not end within ${run.limitMinutes} minutes`)
  if (options.signal) stop(options.signal, `${run.name} was interrupted`)
  try {
    return await Promise.race([run.perform(scene, form), ended.promise])
  } finally {
    for (const close of closers.reverse()) await close()
  }
}
