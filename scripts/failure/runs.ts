import type { FailureRun } from './run.ts'
import { apiKilled } from './runs/api-killed.ts'
import { backendKilled } from './runs/backend-killed.ts'
import { backendsTerminated } from './runs/backends-terminated.ts'
import { bothKilled } from './runs/both-killed.ts'
import { crashPoints } from './runs/crash-points.ts'
import { diskFull, volumeFull, walFull } from './runs/disk-full.ts'
import { dueAtOnce } from './runs/due-at-once.ts'
import { failingFsync } from './runs/failing-fsync.ts'
import { halfOpen } from './runs/half-open.ts'
import { httpFaults } from './runs/http-faults.ts'
import { linkCut, relayCut } from './runs/link-cut.ts'
import { longTransaction } from './runs/long-transaction.ts'
import { poisonTemplates } from './runs/poison-templates.ts'
import { postmasterKilled } from './runs/postmaster-killed.ts'
import { races } from './runs/races.ts'
import { restoredBackup } from './runs/restored-backup.ts'
import { rollingRestart } from './runs/rolling-restart.ts'
import { slowFsync } from './runs/slow-fsync.ts'
import { smtpFaults } from './runs/smtp-faults.ts'
import { soak } from './runs/soak.ts'
import { webhookStorm } from './runs/webhook-storm.ts'
import { workerClock } from './runs/worker-clock.ts'
import { workerStopped } from './runs/worker-stopped.ts'
import { workersKilled } from './runs/workers-killed.ts'

/** Every failure run, in the order in which docs/guarantees.md speaks of them. */
export const RUNS: readonly FailureRun[] = [
  workersKilled,
  apiKilled,
  bothKilled,
  postmasterKilled,
  backendKilled,
  diskFull,
  walFull,
  volumeFull,
  failingFsync,
  slowFsync,
  backendsTerminated,
  halfOpen,
  linkCut,
  relayCut,
  rollingRestart,
  restoredBackup,
  crashPoints,
  workerStopped,
  races,
  workerClock,
  smtpFaults,
  httpFaults,
  poisonTemplates,
  webhookStorm,
  dueAtOnce,
  longTransaction,
  soak,
]
