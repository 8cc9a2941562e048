import { performFullDisk } from '../full-disk.ts'
import { failureRun } from '../run.ts'
import { missingForMounts } from '../small-disk.ts'

const FULL = { perS: 100, beforeS: 10, fullS: 90, afterS: 20, workers: 2 }
const SHORT = { perS: 60, beforeS: 0.5, fullS: 4, afterS: 0.5, workers: 1 }

/** No room for a row: statements fail with 53100 one by one, and the server lives. */
export const diskFull = failureRun({
  name: 'disk-full',
  promise:
    'a full data disk is answered with 503, costs no message, no copy and no dead letter, and is over when there is room',
  limitMinutes: 10,
  full: FULL,
  short: SHORT,
  missing: missingForMounts,
  perform: (scene, scale) => performFullDisk(scene, scale, 'data'),
})

/** No room for the log: the server cannot go on, and ends and is started again for as long as that lasts. */
export const walFull = failureRun({
  name: 'wal-full',
  promise:
    'a full disk under the write-ahead log stops Postgres and nothing else, and loses no durable answer',
  limitMinutes: 10,
  isOfPostgres: false,
  full: FULL,
  short: { ...SHORT, fullS: 3 },
  missing: missingForMounts,
  perform: (scene, scale) => performFullDisk(scene, scale, 'wal'),
})

/** The most usual installation: one volume for everything, the server's own log too. */
export const volumeFull = failureRun({
  name: 'volume-full',
  promise:
    'a full volume that holds all of Postgres loses no durable answer, and all goes on when there is room',
  limitMinutes: 10,
  isOfPostgres: false,
  full: FULL,
  short: { ...SHORT, fullS: 3 },
  missing: missingForMounts,
  perform: (scene, scale) => performFullDisk(scene, scale, 'both'),
})
