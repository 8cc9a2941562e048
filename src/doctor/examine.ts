import type { Client } from 'pg'
import { type Config, ConfigError, readConfig } from '../config.ts'
import { sqlState } from '../db/sqlstate.ts'
import { placeOfUrl } from '../db/unreachable.ts'
import { checkConnections, checkLimits, checkMemory, checkSize } from './capacity.ts'
import { checkClock } from './clock.ts'
import { checkDurability } from './durability.ts'
import { checkEmbedded } from './embedded.ts'
import { type Finding, ok, problem, skipped, warning } from './finding.ts'
import { checkHold } from './hold.ts'
import { checkIntake } from './intake.ts'
import { checkKeys } from './keys.ts'
import { checkMigrations, type SchemaState } from './migrations.ts'
import { checkPartitions } from './partitions.ts'
import { checkProvider, type ProviderRow, providersOf, readProviders } from './providers.ts'
import {
  checkEncryption,
  checkLatency,
  checkPooled,
  checkSession,
  connect,
  unreachable,
} from './reachability.ts'
import { createReader, type Reader } from './reader.ts'
import { checkRoles } from './roles.ts'
import { checkServer } from './server-version.ts'
import { checkStreams } from './streams.ts'
import { checkVacuum } from './vacuum.ts'
import { checkWorkers } from './workers.ts'

/**
 * Looks at the whole set-up of this environment, in the order in which one thing needs the other, and changes nothing.
 * Whatever cannot be looked at is a finding as well: this never rejects.
 */

type Environment = Readonly<Record<string, string | undefined>>

/** Past this a check is given up, whatever it waits for. */
const CHECK_MS = 30_000

export async function examine(environment: Environment): Promise<Finding[]> {
  let config: Config
  try {
    config = readConfig(environment)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const findings = error.problems.map((each) => problem('settings', each, 'see npm start -- --help'))
    return [...findings, skipped('everything else', 'needs settings that can be read')]
  }
  const database = await examineDatabase(config)
  return [
    ok('settings', 'can be read'),
    ...database.findings,
    ...(await examineProviders(config, database.providers)),
  ]
}

type Examined = { readonly findings: Finding[]; readonly providers: readonly ProviderRow[] }

async function examineDatabase(config: Config): Promise<Examined> {
  const nothing = { providers: providersOf(config) }
  const { databaseUrl, sessionDatabaseUrl } = config
  const place =
    databaseUrl === undefined
      ? await guarded('embedded Postgres', async () => checkEmbedded(config))
      : { findings: [], url: databaseUrl }
  if ('verdict' in place) return { findings: [place], ...nothing }
  if (place.url === undefined) return { findings: place.findings, ...nothing }

  const url = sessionDatabaseUrl ?? place.url
  const variable = sessionDatabaseUrl === undefined ? 'DATABASE_URL' : 'SLUICE_SESSION_DATABASE_URL'
  const findings = [...place.findings]
  const client = await reached(variable, url, findings)
  const pooled =
    sessionDatabaseUrl === undefined ? undefined : await reached('DATABASE_URL', place.url, findings)
  try {
    if (client === undefined) {
      findings.push(skipped('everything in the database', 'cannot be looked at from here'))
      return { findings, ...nothing }
    }
    if (pooled !== undefined) {
      findings.push(...(await settled('pooler', () => checkPooled(pooled, client))))
    }
    const examined = await examineReached(config, client, url)
    return { findings: [...findings, ...examined.findings], providers: examined.providers }
  } finally {
    await Promise.allSettled([client?.end(), pooled?.end()])
  }
}

/** Undefined, with a finding that says why, when it cannot be had. */
async function reached(variable: string, url: string, findings: Finding[]): Promise<Client | undefined> {
  try {
    const client = await connect(url)
    findings.push(ok(variable, `${placeOfUrl(url)} answers`))
    return client
  } catch (error) {
    findings.push(unreachable(variable, url, error))
    return undefined
  }
}

async function examineReached(config: Config, client: Client, url: string): Promise<Examined> {
  const findings = [
    ...(await settled('pooler', () => checkSession(client, url))),
    ...(await settled('round trip', () => checkLatency(client))),
    ...(await settled('encryption', () => checkEncryption(client, url))),
  ]
  const reader = createReader(client)
  for (const [name, check] of serverChecks(reader, config)) findings.push(...(await settled(name, check)))
  const schema = await guarded('migrations', () => checkMigrations(reader))
  if ('verdict' in schema) return { findings: [...findings, schema], providers: providersOf(config) }
  findings.push(schema.finding)
  if (schema.state === 'none') {
    findings.push(skipped('roles, workers, streams, keys', 'nothing of Sluice is in this database yet'))
    return { findings, providers: providersOf(config) }
  }
  for (const [name, check] of schemaChecks(reader, config)) {
    findings.push(...(await settled(name, check, schema.state)))
  }
  const rows = await guarded('providers', () => readProviders(reader), schema.state)
  if ('verdict' in rows) return { findings: [...findings, rows], providers: providersOf(config) }
  return { findings, providers: rows.length === 0 ? providersOf(config) : rows }
}

type Check = readonly [string, () => Promise<Finding | Finding[]>]

function serverChecks(reader: Reader, config: Config): Check[] {
  return [
    ['version', () => checkServer(reader)],
    ['durability', () => checkDurability(reader)],
    ['connections', () => checkConnections(reader, config)],
    ['memory', () => checkMemory(reader)],
    ['time limits', () => checkLimits(reader)],
    ['clock', () => checkClock(reader, Date.now)],
    ['vacuum', () => checkVacuum(reader)],
    ['size', () => checkSize(reader)],
  ]
}

function schemaChecks(reader: Reader, config: Config): Check[] {
  return [
    ['roles', () => checkRoles(reader)],
    ['partitions', () => checkPartitions(reader)],
    ['sending', () => checkHold(reader)],
    ['workers', () => checkWorkers(reader)],
    ['routes', () => checkStreams(reader, config)],
    ['keys', () => checkKeys(reader, config)],
    ['intake losses', () => checkIntake(reader)],
  ]
}

/** All at once: each talks to somebody else. */
async function examineProviders(config: Config, providers: readonly ProviderRow[]): Promise<Finding[]> {
  const found = await Promise.all(
    providers.map((provider) => settled(`provider ${provider.name}`, () => checkProvider(provider, config))),
  )
  return found.flat()
}

async function settled(
  name: string,
  check: () => Promise<Finding | Finding[]>,
  schema: SchemaState = 'current',
): Promise<Finding[]> {
  return [await guarded(name, check, schema)].flat()
}

/** What the check returns, or the finding that it could not be made. */
async function guarded<T>(
  name: string,
  check: () => Promise<T>,
  schema: SchemaState = 'current',
): Promise<T | Finding> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<Finding>((resolve) => {
    const finding = problem(
      name,
      `no answer within ${CHECK_MS / 1_000} s`,
      'look at what the database is busy with',
    )
    timer = setTimeout(() => resolve(finding), CHECK_MS)
  })
  try {
    return await Promise.race([check(), late])
  } catch (error) {
    return failed(name, error, schema)
  } finally {
    clearTimeout(timer)
  }
}

function failed(name: string, error: unknown, schema: SchemaState): Finding {
  const state = sqlState(error)
  const words = error instanceof Error ? error.message : String(error)
  // Undefined table, column or function: of a schema that is not this version's.
  if (schema !== 'current' && state !== undefined && /^(?:42P01|42703|42883|3F000)$/.test(state)) {
    return skipped(name, 'needs the migrations of this version')
  }
  if (state === '42501') {
    return warning(name, `this user may not look: ${words}`, 'run doctor with the user of the service')
  }
  return problem(name, `could not be looked at: ${words}`, 'repair what is said above, then look again')
}
