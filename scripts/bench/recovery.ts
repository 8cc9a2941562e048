import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Recorded } from '../failure/guarantees.ts'
import type { MeasuredTargets } from './targets.ts'

const GUARANTEES = fileURLToPath(new URL('../../docs/guarantees.json', import.meta.url))
const RUN = 'workers-killed'

/** Nobody is killed here: that target's figure is the one which the failure run recorded, if it has. */
export function recoveryOfWorkers(): MeasuredTargets {
  if (!existsSync(GUARANTEES)) return {}
  const recorded = JSON.parse(readFileSync(GUARANTEES, 'utf8')) as readonly Recorded[]
  const found = recorded.find(({ row }) => row.run === RUN)
  if (found === undefined || found.row.recoveryS === null) return {}
  return {
    workerKilled: { value: found.row.recoveryS.p95, of: `failure run ${RUN}, recorded on ${found.on}` },
  }
}
