import { DOCTOR_USAGE, runDoctor } from './commands/doctor.ts'
import { runEncryptionKey } from './commands/encryption-key.ts'
import { EXIT_CONFIG, EXIT_FAILURE, EXIT_USAGE, UsageError } from './commands/exit.ts'
import { HOLD_USAGE, runHold, runRelease } from './commands/hold.ts'
import { KEY_USAGE, runKey } from './commands/key.ts'
import { runMigrate } from './commands/migrate.ts'
import { ConfigError, describeSettings, readConfig } from './config.ts'
import { EmbeddedPostgresError } from './db/embedded-error.ts'
import { SchemaError } from './db/schema-error.ts'
import { DatabaseUnreachableError } from './db/unreachable.ts'
import { DatabaseTlsError } from './db/verified-tls.ts'

const USAGE = `Sluice: an email queue backend that needs nothing but Postgres

  npm start                        migrate, then run the roles of SLUICE_ROLES
  npm start -- migrate             bring the database to this version and exit
${DOCTOR_USAGE}${HOLD_USAGE}${KEY_USAGE}  npm start -- encryption-key      print a new key for SLUICE_ENCRYPTION_KEYS

Settings, from the environment:
${describeSettings()}
`

/** The message of these says all: where in the code it happened would only hide that. */
const UNDERSTOOD = [
  ConfigError,
  SchemaError,
  DatabaseTlsError,
  DatabaseUnreachableError,
  EmbeddedPostgresError,
  UsageError,
] as const
type Understood = InstanceType<(typeof UNDERSTOOD)[number]>

/** What is still open by then, such as a socket to a server that hangs, does not keep the process. */
const LINGER_MS = 1_000

async function main([command = 'start', ...args]: readonly string[]): Promise<number> {
  if (command === 'key') return runKey(args)
  if (command === 'doctor') return runDoctor(args)
  if ([command, ...args].some((word) => word === '--help' || word === '-h')) {
    process.stdout.write(USAGE)
    return 0
  }
  if (command === 'hold') return runHold(readConfig(process.env), args)
  if (command === 'release') return runRelease(readConfig(process.env), args)
  const [extra] = args
  if (extra !== undefined) throw new UsageError(`"${command}" takes no "${extra}"`, USAGE)
  if (command === 'start') {
    // The other commands answer in half the time without all that the service is made of.
    const { runService } = await import('./commands/start.ts')
    return runService(readConfig(process.env))
  }
  if (command === 'encryption-key') return runEncryptionKey()
  if (command === 'migrate') return runMigrate(readConfig(process.env))
  throw new UsageError(`Sluice has no command "${command}"`, USAGE)
}

// Whoever started this reads it no more: without a listener that would end the process.
process.stderr.on('error', () => undefined)

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  process.stderr.write(`${isUnderstood(error) ? error.message : describe(error)}\n`)
  process.exitCode = isUnderstood(error) ? exitCodeOf(error) : EXIT_FAILURE
}
setTimeout(() => process.exit(), LINGER_MS).unref()

function isUnderstood(error: unknown): error is Understood {
  return UNDERSTOOD.some((kind) => error instanceof kind)
}

/** A supervisor does not start again what ends with EXIT_CONFIG. A database may be there a moment later. */
function exitCodeOf(error: Understood): number {
  if (error instanceof UsageError) return EXIT_USAGE
  const mayPass = error instanceof DatabaseUnreachableError || error instanceof EmbeddedPostgresError
  return mayPass ? EXIT_FAILURE : EXIT_CONFIG
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const cause = error.cause instanceof Error ? `\n  because: ${error.cause.message}` : ''
  return `${error.stack ?? error.message}${cause}`
}
