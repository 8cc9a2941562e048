import { parseArgs } from 'node:util'
import { type Config, ConfigError, describeSettings, readConfig } from './config.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from './db/embedded.ts'
import { migrate, SchemaError } from './db/migrate.ts'
import { openPool } from './db/pool.ts'
import { createKey, hasKeys, KEY_SCOPES } from './keys.ts'
import { createLog, type Log } from './log.ts'
import { startService } from './service.ts'

const USAGE = `Sluice: an email queue backend that needs nothing but Postgres

  npm start                              migrate, then run the roles of SLUICE_ROLES
  npm start -- migrate                   bring the database to this version and exit
  npm start -- key create --name NAME    make an API key and print it, this once
              [--scope ${KEY_SCOPES.join('|')}]

Settings, from the environment:
${describeSettings()}
`

/** From sysexits.h: the settings, or the database they name, cannot be used as they are. */
const EXIT_CONFIG = 78
const EXIT_USAGE = 64
/** Stopped without settling everything: the database hung, and other workers take over. */
const EXIT_UNCLEAN = 1
/** What is still open by then, such as a socket to a server that hangs, does not keep the process. */
const LINGER_MS = 1_000

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h' },
      name: { type: 'string' },
      scope: { type: 'string', default: 'full' },
    },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  switch (positionals.join(' ')) {
    case '':
    case 'start':
      return runService(readConfig(process.env))
    case 'migrate':
      return runMigrate(readConfig(process.env))
    case 'key create':
      return runKeyCreate(readConfig(process.env), values)
    default:
      process.stderr.write(`Sluice has no command "${positionals.join(' ')}"\n\n${USAGE}`)
      return EXIT_USAGE
  }
}

async function runService(config: Config): Promise<number> {
  const log = createLog(config.logLevel)
  return withDatabase(config, log, async ({ url, embedded }) => {
    const { serviceRole } = await migrate({ url, log })
    const newKey = embedded && config.apiKey === undefined ? await makeFirstKey(url, log) : undefined
    const service = await startService({ config, log, databaseUrl: url, serviceRole })
    if (service.url !== undefined) greet({ config, url, embedded, service, newKey })
    await stopSignal(log)
    return (await service.stop()) ? 0 : EXIT_UNCLEAN
  })
}

async function runMigrate(config: Config): Promise<number> {
  const log = createLog(config.logLevel)
  return withDatabase(config, log, async ({ url }) => {
    const { applied } = await migrate({ url, log })
    process.stdout.write(applied.length === 0 ? 'nothing to migrate\n' : `migrated: ${applied.join(', ')}\n`)
    return 0
  })
}

async function runKeyCreate(config: Config, values: { name?: string; scope: string }): Promise<number> {
  const scope = KEY_SCOPES.find((known) => known === values.scope)
  if (values.name === undefined || scope === undefined) {
    process.stderr.write(`key create needs --name, and --scope is one of ${KEY_SCOPES.join(', ')}\n`)
    return EXIT_USAGE
  }
  const { name } = values
  const log = createLog('warn')
  return withDatabase(config, log, async ({ url }) => {
    await migrate({ url, log })
    const { db, close } = openPool({ url, maxConnections: 1, role: undefined, log })
    const { key } = await createKey(db, { name, scope })
    await close()
    process.stdout.write(`${key}\n`)
    return 0
  })
}

/** Runs `work` against the configured database, or the embedded one for as long as it takes. */
async function withDatabase(
  config: Config,
  log: Log,
  work: (database: { url: string; embedded: boolean }) => Promise<number>,
): Promise<number> {
  if (config.databaseUrl !== undefined) return work({ url: config.databaseUrl, embedded: false })
  const postgres: EmbeddedPostgres = await startEmbeddedPostgres({
    dataDir: config.dataDir,
    dataDirIsExplicit: config.dataDirIsExplicit,
    log,
  })
  try {
    return await work({ url: postgres.url, embedded: true })
  } finally {
    await postgres.stop()
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
  const lines = [`Sluice listens on ${service.url}`]
  if (embedded) lines.push(`  database   psql '${url}'`)
  if (service.hasInbox)
    lines.push(`  inbox      ${service.url}/inbox   (mail stays here; set SMTP_URL to send it)`)
  if (newKey !== undefined) lines.push(`  API key    ${newKey}   (shown this once)`)
  else if (config.apiKey !== undefined) lines.push('  API key    the one in SLUICE_API_KEY')
  else lines.push('  API key    made earlier; for another: npm start -- key create --name NAME')
  lines.push(
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

try {
  process.exitCode = await main()
} catch (error) {
  const isUnderstood = error instanceof ConfigError || error instanceof SchemaError
  process.stderr.write(`${isUnderstood ? error.message : describe(error)}\n`)
  process.exitCode = isUnderstood ? EXIT_CONFIG : 1
}
setTimeout(() => process.exit(), LINGER_MS).unref()

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const cause = error.cause instanceof Error ? `\n  because: ${error.cause.message}` : ''
  return `${error.stack ?? error.message}${cause}`
}
