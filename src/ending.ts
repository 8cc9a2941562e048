import type { Log } from './log.ts'

type Ending = {
  readonly part: string
  readonly ending: Promise<unknown>
  /** As performance.now() has it: a clock that is set must not cut anybody off. */
  readonly by: number
  readonly log: Log
}

/** False, with a word in the log, when the part fails to end or is not done in time. */
export async function endsBy({ part, ending, by, log }: Ending): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), Math.max(by - performance.now(), 0))
  })
  const ended = ending.then(
    () => true,
    (error: unknown) => {
      log.error({ part, error }, 'a part failed to end')
      return undefined
    },
  )
  const isEnded = await Promise.race([ended, late])
  clearTimeout(timer)
  if (isEnded === false) log.error({ part }, 'a part did not end in time')
  return isEnded === true
}

/** What was started before a part that fails to start must not keep the process alive. */
export async function orClose<T>(starting: Promise<T>, close: () => Promise<unknown>): Promise<T> {
  try {
    return await starting
  } catch (error) {
    await close()
    throw error
  }
}
