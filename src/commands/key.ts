import { parseArgs } from 'node:util'
import { z } from 'zod'
import { readConfig } from '../config.ts'
import { migrate } from '../db/migrate.ts'
import { type Database, openPool } from '../db/pool.ts'
import { keyLimits, keyName, limitsFault } from '../keys/key-settings.ts'
import * as store from '../keys/keys.ts'
import { createLog } from '../log.ts'
import { readDurationS, readTime } from './duration.ts'
import { EXIT_FAILURE, UsageError } from './exit.ts'
import { keyTable } from './key-table.ts'
import { withDatabase } from './with-database.ts'

/**
 * `key create | list | revoke | rotate`. Standard output has the key, or the list, and nothing else, so that it can
 * be captured; words for people go to standard error.
 */

const HELP = { help: { type: 'boolean', short: 'h', default: false } } as const

const CREATE_USAGE = `  npm start -- key create --name NAME
    [--scope ${store.KEY_SCOPES.join('|')}]   what it may do; full unless said otherwise
    [--stream STREAM …]              a send key: the only streams it may send in
    [--domain DOMAIN …]              a send key: the only domains it may send from
    [--expires 90d|2030-01-31]       when it ends; never unless said otherwise
    [--rate N] [--burst N]           requests a second, and at once after a pause; no limit unless said otherwise
`
const LIST_USAGE = '  npm start -- key list              every key, revoked ones too\n'
const REVOKE_USAGE =
  '  npm start -- key revoke ID         end a key; running processes follow within 2 seconds\n'
const ROTATE_USAGE = `  npm start -- key rotate ID         give a key a new secret and print it
    [--overlap 24h]                  how long the secret it had goes on working; 24h unless said otherwise
`
export const KEY_USAGE = `${CREATE_USAGE}${LIST_USAGE}${REVOKE_USAGE}${ROTATE_USAGE}`

const COMMANDS: Readonly<Record<string, (args: readonly string[]) => Promise<number>>> = {
  create: createKey,
  list: listKeys,
  revoke: revokeKey,
  rotate: rotateKey,
}

export async function runKey([verb = '', ...args]: readonly string[]): Promise<number> {
  if (verb === '--help' || verb === '-h') return printHelp(KEY_USAGE)
  const command = Object.hasOwn(COMMANDS, verb) ? COMMANDS[verb] : undefined
  if (command === undefined) throw new UsageError(`key has no command "${verb}"`, KEY_USAGE)
  return command(args)
}

const newKeySchema = z.strictObject({
  name: keyName,
  scope: z.enum(store.KEY_SCOPES, `must be one of ${store.KEY_SCOPES.join(', ')}`),
  ...keyLimits,
})

const FLAGS: Readonly<Record<string, string>> = {
  name: '--name',
  scope: '--scope',
  streams: '--stream',
  sender_domains: '--domain',
  expires_at: '--expires',
  rate_limit_per_s: '--rate',
  rate_burst: '--burst',
}

async function createKey(args: readonly string[]): Promise<number> {
  const { values } = read(CREATE_USAGE, () =>
    parseArgs({
      args: [...args],
      options: {
        ...HELP,
        name: { type: 'string' },
        scope: { type: 'string', default: 'full' },
        stream: { type: 'string', multiple: true },
        domain: { type: 'string', multiple: true },
        expires: { type: 'string' },
        rate: { type: 'string' },
        burst: { type: 'string' },
      },
    }),
  )
  if (values.help) return printHelp(CREATE_USAGE)
  if (values.name === undefined) throw new UsageError('key create needs --name', CREATE_USAGE)
  const parsed = newKeySchema.safeParse({
    name: values.name,
    scope: values.scope,
    ...(values.stream && { streams: values.stream }),
    ...(values.domain && { sender_domains: values.domain }),
    ...(values.expires !== undefined && { expires_at: readTime(values.expires, Date.now()) }),
    ...(values.rate !== undefined && { rate_limit_per_s: Number(values.rate) }),
    ...(values.burst !== undefined && { rate_burst: Number(values.burst) }),
  })
  if (!parsed.success) throw wrongFlag(parsed.error)
  const fault = limitsFault(parsed.data)
  if (fault !== undefined) throw new UsageError(inFlags(fault), CREATE_USAGE)
  return withKeys(async (db) => {
    const [unknown] = await store.unknownStreams(db, parsed.data.streams ?? [])
    if (unknown !== undefined) return fail(`there is no stream "${unknown}"; make it first, or use another`)
    const { id, key } = await store.createKey(db, parsed.data)
    process.stderr.write(`key ${id} was made; it is shown this once\n`)
    process.stdout.write(`${key}\n`)
    return 0
  })
}

async function listKeys(args: readonly string[]): Promise<number> {
  const { values } = read(LIST_USAGE, () => parseArgs({ args: [...args], options: HELP }))
  if (values.help) return printHelp(LIST_USAGE)
  return withKeys(async (db) => {
    process.stdout.write(keyTable(await store.listEveryKey(db), new Date()))
    return 0
  })
}

async function revokeKey(args: readonly string[]): Promise<number> {
  const { values, positionals } = read(REVOKE_USAGE, () =>
    parseArgs({ args: [...args], allowPositionals: true, options: HELP }),
  )
  if (values.help) return printHelp(REVOKE_USAGE)
  const id = idOf(positionals, REVOKE_USAGE)
  return withKeys(async (db) => {
    if (!(await store.revokeKey(db, id))) return noSuchKey(id)
    process.stderr.write(`key ${id} is revoked; running processes refuse it within 2 seconds\n`)
    return 0
  })
}

async function rotateKey(args: readonly string[]): Promise<number> {
  const { values, positionals } = read(ROTATE_USAGE, () =>
    parseArgs({
      args: [...args],
      allowPositionals: true,
      options: { ...HELP, overlap: { type: 'string', default: '24h' } },
    }),
  )
  if (values.help) return printHelp(ROTATE_USAGE)
  const id = idOf(positionals, ROTATE_USAGE)
  const overlapS = readDurationS(values.overlap)
  if (overlapS === undefined) {
    throw new UsageError('--overlap must be a time such as 24h, 30m or 0s', ROTATE_USAGE)
  }
  return withKeys(async (db) => {
    const rotated = await store.rotateKey(db, { id, overlapS })
    if (rotated === undefined) return noSuchKey(id)
    const until = rotated.stored.previous_expires_at
    const old =
      until === null ? 'the secret it had has ended' : `the one it had works until ${until.toISOString()}`
    process.stderr.write(`key ${id} has a new secret; ${old}\n`)
    process.stdout.write(`${rotated.key}\n`)
    return 0
  })
}

async function withKeys(work: (db: Database) => Promise<number>): Promise<number> {
  const log = createLog('warn')
  return withDatabase(readConfig(process.env), log, async ({ sessionUrl: url }) => {
    await migrate({ url, log })
    const { db, close } = openPool({ url, maxConnections: 1, role: undefined, log })
    try {
      return await work(db)
    } finally {
      await close()
    }
  })
}

/** Arguments that are not understood are the caller's to repair, and the parser says which. */
function read<T>(usage: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    const { code = '', message } = error as { code?: string; message: string }
    if (code.startsWith('ERR_PARSE_ARGS_')) throw new UsageError(message, usage)
    throw error
  }
}

function idOf(positionals: readonly string[], usage: string): string {
  const [id, ...more] = positionals
  if (id === undefined || more.length > 0)
    throw new UsageError('give the id of one key (see key list)', usage)
  return id
}

function wrongFlag(error: z.ZodError): UsageError {
  const [issue] = error.issues
  const flag = FLAGS[String(issue?.path[0])] ?? 'the key'
  return new UsageError(`${flag} ${issue?.message ?? 'is not usable'}`, CREATE_USAGE)
}

function inFlags(text: string): string {
  return text.replace(/`(\w+)`/g, (whole, field: string) => FLAGS[field] ?? whole)
}

function noSuchKey(id: string): number {
  return fail(`there is no key ${JSON.stringify(id)}, or it is revoked already; see key list`)
}

function fail(message: string): number {
  process.stderr.write(`${message}\n`)
  return EXIT_FAILURE
}

function printHelp(usage: string): number {
  process.stdout.write(usage)
  return 0
}
