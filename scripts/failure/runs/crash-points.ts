import { availableParallelism } from 'node:os'
import type { CrashPoint } from '../../../src/crash-point.ts'
import { CASES, type Case } from '../crash-points/cases.ts'
import { onStage, openTheatre, type Theatre } from '../crash-points/stage.ts'
import { failureRun } from '../run.ts'

/** Cases at a time, each a few processes: little more than what a machine has for them. */
const LANES = Math.max(2, Math.min(8, availableParallelism()))

type Performance = { readonly point: CrashPoint; readonly each: Case }

/**
 * A process is killed at each of the named points between a side effect and its commit, while it carries one message (or
 * whatever goes through there), and another one goes on. What follows is exactly what docs/crash-points.md says.
 */
export const crashPoints = failureRun({
  name: 'crash-points',
  promise:
    'a death at any point between a side effect and its commit has exactly the consequences of docs/crash-points.md',
  limitMinutes: 60,
  full: { times: 3, isTellingOnly: false },
  short: { times: 1, isTellingOnly: true },
  perform: async (scene, { times, isTellingOnly }) => {
    const { ledger } = scene
    const theatre = await openTheatre(scene)
    const todo = performances(times, isTellingOnly)
    const startedAt = performance.now()
    const [deaths, points] = [todo.length, new Set(todo.map(({ point }) => point))]
    const broken: string[] = []
    const work = async () => {
      for (let next = todo.shift(); next !== undefined; next = todo.shift()) {
        const fault = await faultOf(theatre, next)
        if (fault !== undefined) broken.push(fault)
        scene.say(
          `${next.point}${next.each.variant === '' ? '' : ` (${next.each.variant})`}: ${fault ?? 'as written'}`,
        )
      }
    }
    await Promise.all(Array.from({ length: LANES }, work))
    const verdict = ledger.verdict()
    return {
      // Held messages are seen by a person: their cases say so.
      verdict: { ...verdict, lost: [] },
      longestGapS: 0,
      recoveriesS: [],
      // How many there are at each point is exactly what the cases say.
      allowedDuplicates: verdict.duplicated,
      allowedSetAside: verdict.setAside,
      broken: [...new Set(broken)],
      figures: {
        points: points.size,
        deaths,
        'seconds a death': (performance.now() - startedAt) / 1_000 / deaths,
      },
    }
  },
})

function performances(times: number, isTellingOnly: boolean): Performance[] {
  const once = Object.entries(CASES).flatMap(([point, cases]) =>
    cases
      .filter((each) => !isTellingOnly || each.isTelling === true)
      .map((each) => ({ point: point as CrashPoint, each })),
  )
  return Array.from({ length: times }, () => once).flat()
}

async function faultOf(theatre: Theatre, { point, each }: Performance): Promise<string | undefined> {
  const what = each.variant === '' ? point : `${point} (${each.variant})`
  try {
    const seen = await onStage(theatre, each.isEmptyDatabase === true, (stage) => each.perform(stage, point))
    return seen === each.follows ? undefined : `${what}: "${seen}" instead of "${each.follows}"`
  } catch (error) {
    return `${what}: could not be performed: ${error instanceof Error ? error.message : String(error)}`
  }
}
