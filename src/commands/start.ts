import { flushCompileCache } from 'node:module'
import { getPriority, setPriority } from 'node:os'
import type { Config } from '../config.ts'
import { migrate } from '../db/migrate.ts'
import { openPool } from '../db/pool.ts'
import { createKey, hasKeys } from '../keys/keys.ts'
import { createLog, type Log, logConsole } from '../log.ts'
import { startService } from '../service.ts'
import { EXIT_FAILURE } from './exit.ts'
import { withDatabase } from './with-database.ts'

/** Without a command: the chosen roles, until a signal ends them; from when there is a database it ends a start as cleanly. */
export async function runService(config: Config): Promise<number> {
  const log = createLog(config.logLevel)
  logConsole(log)
  return withDatabase(config, log, async ({ url, sessionUrl, embedded }) => {
    const stopped = stopSignal(log)
    // May wait minutes for a lock; what a signal cuts off, the next start repeats.
    const migrated = await Promise.race([migrate({ url: sessionUrl, log }), stopped])
    if (migrated === undefined) return 0
    const newKey = embedded && config.apiKey === undefined ? await makeFirstKey(url, log) : undefined
    if (!config.roles.has('api') && !embedded) giveWay(log)
    const service = await startService({ config, log, databaseUrl: url, serviceRole: migrated.serviceRole })
    // Now, since a process that is killed writes nothing at its end.
    flushCompileCache()
    if (service.url !== undefined) greet({ config, url, embedded, service, newKey })
    await stopped
    return (await service.stop()) ? 0 : EXIT_FAILURE
  })
}

/** As `nice` counts: about a third of the share of a process at 0, and all of it when nobody else wants it. */
const WORKER_NICENESS = 5

/**
 * A process that only works lets those go first who answer somebody that waits: the API, Postgres, the app beside it. Unless its
 * operator gave it a priority, or it has an embedded Postgres to start again, which would take it over.
 */
function giveWay(log: Log): void {
  try {
    if (getPriority() === 0) setPriority(WORKER_NICENESS)
  } catch (error) {
    log.debug({ error }, 'the system does not let this process give way to others')
  }
}

async function makeFirstKey(url: string, log: Log): Promise<string | undefined> {
  const { db, close } = openPool({ url, maxConnections: 1, role: undefined, log })
  try {
    if (await hasKeys(db)) return undefined
    return (await createKey(db, { name: 'first', scope: 'full' })).key
  } finally {
    await close()
  }
}

type Greeting = {
  readonly config: Config
  readonly url: string
  readonly embedded: boolean
  readonly service: { readonly url: string | undefined; readonly hasInbox: boolean }
  readonly newKey: string | undefined
}

/** For the person at the terminal, on standard error: logs may be kept, a key must not be among them. */
function greet({ config, url, embedded, service, newKey }: Greeting): void {
  const key = newKey ?? '$SLUICE_API_KEY'
  const lines = [
    `Sluice listens on ${service.url}`,
    `  dashboard  ${service.url}/   (sign in with the API key)`,
  ]
  if (embedded) lines.push(`  database   psql '${url}'`)
  if (service.hasInbox)
    lines.push(`  inbox      ${service.url}/inbox   (mail stays here; set SMTP_URL to send it)`)
  if (newKey !== undefined) lines.push(`  API key    ${newKey}   (shown this once)`)
  else if (config.apiKey !== undefined) lines.push('  API key    the one in SLUICE_API_KEY')
  else lines.push('  API key    made earlier; for another: npm start -- key create --name NAME')
  lines.push(
    `  the API    ${service.url}/docs   (read it and try it)`,
    '',
    'Send a first mail:',
    '',
    `curl ${service.url}/emails -H "Authorization: Bearer ${key}" -H 'Content-Type: application/json' -d '{"from":"Shop <shop@example.com>","to":"ann@example.com","subject":"Hello","html":"<p>It works.</p>"}'`,
  )
  process.stderr.write(`\n${lines.join('\n')}\n\n`)
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once. */
function stopSignal(log: Log): Promise<void> {
  return new Promise((resolve) => {
    const signals = ['SIGTERM', 'SIGINT'] as const
    const stop = (signal: NodeJS.Signals) => {
      log.info({ signal }, 'stopping: finishing what is in flight')
      for (const each of signals) {
        process.off(each, stop)
        process.on(each, () => process.exit(1))
      }
      resolve()
    }
    for (const signal of signals) process.on(signal, stop)
  })
}
