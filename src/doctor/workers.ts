import { WORKER_LOCK } from '../db/session.ts'
import { VERSION } from '../version.ts'
import { type Finding, ok, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { counted, duration, listed } from './words.ts'

type WorkerRow = {
  readonly name: string
  readonly version: string
  readonly silent_s: number
  readonly is_alive: boolean
}

/** A heartbeat comes every five seconds. */
const SILENT_S = 30

/** A living worker's session holds its lock, as upkeep looks at it. */
export async function checkWorkers({ ask }: Reader): Promise<Finding[]> {
  const workers = await ask<WorkerRow>(
    `/* doctor.workers */
     select
       w.name, w.version, extract(epoch from clock_timestamp() - w.seen_at)::double precision as silent_s,
       exists (
         select from pg_locks l
         where l.locktype = 'advisory' and l.granted and l.classid = $1::integer::oid and l.objid = w.lock_key::oid
           and l.objsubid = 2 and l.pid = w.backend_pid and l.database = (select oid from pg_database where datname = current_database())
       ) as is_alive
     from mail.worker w
     order by w.number`,
    [WORKER_LOCK],
  )
  const alive = workers.filter((worker) => worker.is_alive)
  return [
    aliveOf(alive),
    ...alive.filter(({ silent_s: silent }) => silent > SILENT_S).map(silentOf),
    ...versionsOf(alive),
    ...deadOf(workers.filter((worker) => !worker.is_alive)),
  ]
}

function aliveOf(alive: readonly WorkerRow[]): Finding {
  if (alive.length === 0) {
    const found = 'none is running: mail is accepted, and waits'
    return warning('workers', found, 'start a process with "worker" among its SLUICE_ROLES')
  }
  return ok('workers', `${counted(alive.length, 'worker')}: ${listed(alive.map(({ name }) => name))}`)
}

function silentOf({ name, silent_s: silent }: WorkerRow): Finding {
  return warning(
    'workers',
    `${name} has its session but was not heard of for ${duration(silent)}: it is stopped, or hangs`,
    'continue or end that process; once it is gone its mail goes to others',
  )
}

function versionsOf(alive: readonly WorkerRow[]): Finding[] {
  const others = alive.filter(({ version }) => version !== VERSION)
  if (others.length === 0) return []
  const names = listed(others.map(({ name, version }) => `${name} (${version})`))
  return [warning('versions', `this is ${VERSION}, but running: ${names}`, 'finish the deployment')]
}

function deadOf(dead: readonly WorkerRow[]): Finding[] {
  if (dead.length === 0) return []
  const found = `died and not yet looked after: ${listed(dead.map(({ name }) => name))}`
  return [
    warning('dead workers', found, 'any running worker gives their mail back within seconds: start one'),
  ]
}
