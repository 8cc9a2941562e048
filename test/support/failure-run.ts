import assert from 'node:assert/strict'
import { test } from 'node:test'
import { judge } from '../../scripts/failure/run.ts'
import { RUNS } from '../../scripts/failure/runs.ts'
import { performRun } from '../../scripts/failure/scene.ts'

const LIMIT_MS = 120_000

/** The short form of a failure run as a test: every promise holds. One that this machine cannot do is skipped, saying why. */
export function testShortForm(name: string): void {
  const run = RUNS.find((each) => each.name === name)
  if (run === undefined) throw new Error(`there is no failure run called ${name}`)
  const isShownElsewhere = process.env.SLUICE_TEST_POSTGRES_ONLY !== undefined && !run.isOfPostgres
  const skip = isShownElsewhere ? 'the same on every Postgres' : (run.missing() ?? false)
  test(run.promise, { timeout: LIMIT_MS, skip }, async (t) => {
    const said: string[] = []
    const outcome = await performRun(run, 'short', { guard: undefined, say: (line) => said.push(line) })
    const broken = judge(outcome)
    if (broken.length > 0) t.diagnostic(said.join('\n'))
    assert.deepEqual(broken, [])
    assert.ok(outcome.verdict.attempted > 0, 'it attempted something')
  })
}
