import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'

const MIGRATE_LOCK = 'mail.migrate'
/** Processes that start at the same moment take a second or two. */
const PATIENCE_MS = 10_000
const LOOK_MS = 100

type TurnOptions = {
  readonly log: { warn(fields: object, text: string): void }
  readonly isUpToDate: () => Promise<boolean>
  readonly patienceMs: number | undefined
}

/**
 * Waits until nobody else migrates this database; the turn ends with the session. It is an advisory lock, as there may
 * be no table yet, and anybody who can connect may take and keep one: so its holder is named in the log, and false is
 * answered where there is nothing to migrate, since nobody may keep a service from starting.
 */
export async function takeTurn(
  client: Client,
  { log, isUpToDate, patienceMs = PATIENCE_MS }: TurnOptions,
): Promise<boolean> {
  const startedAt = performance.now()
  for (let hasWarned = false; ; await delay(LOOK_MS)) {
    const { rows } = await client.query<{ locked: boolean }>(
      'select pg_try_advisory_lock(hashtextextended($1, 0)) as locked',
      [MIGRATE_LOCK],
    )
    if (rows[0]?.locked === true) return true
    if (hasWarned || performance.now() - startedAt < patienceMs) continue
    hasWarned = true
    log.warn(await holderOfLock(client), 'another session holds the lock of migrations')
    if (await isUpToDate()) return false
  }
}

async function holderOfLock(client: Client): Promise<object> {
  const { rows } = await client.query<{ holderPid: number; user: string; application: string }>(
    `select a.pid as "holderPid", a.usename as user, a.application_name as application
     from pg_locks l join pg_stat_activity a using (pid)
     where l.locktype = 'advisory' and l.granted and l.objsubid = 1
       and l.database = (select oid from pg_database where datname = current_database())
       and (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended($1, 0)`,
    [MIGRATE_LOCK],
  )
  return rows[0] ?? {}
}
