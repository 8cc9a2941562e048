import type { FailureRun } from './run.ts'
import { workersKilled } from './runs/workers-killed.ts'

/** Every failure run, in the order in which docs/guarantees.md speaks of them. */
export const RUNS: readonly FailureRun[] = [workersKilled]
