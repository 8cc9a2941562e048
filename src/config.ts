import { z } from 'zod'
import { type ListedHost, parseListedHost } from './network/listed-hosts.ts'
import { type EncryptionKey, parseEncryptionKeys } from './sealer.ts'
import { parseSmtpUrl } from './smtp-url.ts'

/** Whole numbers written in the environment, within bounds. */
function integer(min: number, max: number) {
  return z
    .string()
    .regex(/^\d+$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.number().min(min, `must be at least ${min}`).max(max, `must be at most ${max}`))
}

/** A database URL may leave out its host: the driver then uses the local socket. */
const databaseUrl = z
  .string()
  .refine(
    (text) => ['postgres:', 'postgresql:'].includes(URL.parse(text)?.protocol ?? ''),
    'must look like postgresql://user:password@host:5432/database',
  )

/** The relay's address is read whole, so that a mistake in it is found here and not at the first mail. */
const smtpUrl = z.string().superRefine((text, context) => {
  try {
    parseSmtpUrl(text)
  } catch (error) {
    context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : 'is not usable' })
  }
})

/** Long enough for a host and a path; a link with a token after it must stay one word of a header. */
const MAX_PUBLIC_URL_CHARS = 200

/** Read without the slash at its end, so that paths can be added to it. */
const publicUrl = z.string().transform((text, context) => {
  const url = URL.parse(text)
  const isPlain =
    url !== null &&
    /^https?:$/.test(url.protocol) &&
    [url.username, url.password, url.search, url.hash].every((part) => part === '')
  if (!isPlain || url.href.length > MAX_PUBLIC_URL_CHARS) {
    context.addIssue({ code: 'custom', message: 'must look like https://mail.example.com' })
    return z.NEVER
  }
  return url.href.replace(/\/+$/, '')
})

const ROLES = ['api', 'worker'] as const
export type Role = (typeof ROLES)[number]

const roles = z
  .string()
  .transform((text) => text.split(',').map((role) => role.trim()))
  .pipe(z.array(z.enum(ROLES, 'each must be api or worker')).min(1))

const listedHosts = z.string().transform((text, context): ListedHost[] =>
  text.split(',').flatMap((entry) => {
    const host = parseListedHost(entry)
    if (host !== undefined) return [host]
    context.addIssue({
      code: 'custom',
      message: `${entry.trim() || 'an empty entry'} is not like files.example.com, *.example.com or example.com:8443`,
    })
    return []
  }),
)

const encryptionKeys = z.string().transform((text, context): EncryptionKey[] => {
  try {
    return parseEncryptionKeys(text)
  } catch (error) {
    context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : 'is not usable' })
    return z.NEVER
  }
})

const MIB = 1_024 * 1_024

/** Each setting: what it means, its default as it would be written, and how its text is read. */
const SETTINGS = {
  DATABASE_URL: {
    help: 'Postgres 15 or newer. Unset: an embedded Postgres 18, kept in SLUICE_DATA_DIR',
    schema: databaseUrl.optional(),
  },
  SLUICE_SESSION_DATABASE_URL: {
    help: 'only where DATABASE_URL leads to a pooler in transaction mode: the same database without it, for what needs a session',
    schema: databaseUrl.optional(),
  },
  SMTP_URL: {
    help: 'the relay of provider "default". Unset and no other provider: the local inbox',
    schema: smtpUrl.optional(),
  },
  SLUICE_API_KEY: {
    help: 'a key with full access, at least 16 characters. Unset with the embedded database: one is made and printed once',
    schema: z
      .string()
      .min(16, 'must have at least 16 characters')
      // What a bearer token can carry (see http/auth.ts): any other key could never be used.
      .regex(/^[\x21-\x7e]{1,512}$/, 'must be at most 512 ASCII characters without spaces')
      .optional(),
  },
  HOST: { help: 'address to listen on', schema: z.string().min(1).default('127.0.0.1') },
  PORT: { help: 'port to listen on; 0 chooses a free one', schema: integer(0, 65_535).default(3000) },
  SLUICE_METRICS_PORT: {
    help: 'port for /metrics, /healthz and /readyz alone, which takes /metrics off PORT; 0 chooses a free one. Unset: on PORT, and nowhere in a process that is only a worker',
    schema: integer(0, 65_535).optional(),
  },
  SLUICE_ROLES: {
    help: 'what this process does: api, worker, or both; any number of processes of each',
    schema: roles.default(['api', 'worker']),
  },
  LOG_LEVEL: {
    help: 'trace, debug, info, warn, error, fatal or silent',
    schema: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  },
  SLUICE_DATA_DIR: {
    help: 'where the embedded Postgres keeps its data; .data when unset',
    schema: z.string().min(1).optional(),
  },
  SLUICE_DATABASE_CONNECTIONS: {
    help: 'connections this process may open to Postgres',
    schema: integer(4, 500).default(12),
  },
  SLUICE_MAX_BODY_BYTES: {
    // 40 MB of attachments take 54 MB as base64.
    help: 'largest request body; above it the answer is 413',
    schema: integer(1_024, 64 * MIB).default(56 * MIB),
  },
  SLUICE_ATTACHMENT_HOSTS: {
    help: 'hosts that attachments may be fetched from by URL: names, comma-separated; *.example.com for all below. Unset: none',
    schema: listedHosts.optional(),
  },
  SLUICE_MAX_BULK_BYTES: {
    help: 'largest body of POST /emails/bulk, which is stored as it arrives',
    schema: integer(1_024, 1_024 * 1_024 * 1_024).default(64 * 1_024 * 1_024),
  },
  SLUICE_ACCEPT_TIMEOUT_MS: {
    help: 'how long a caller waits for a durable answer before it gets 503',
    schema: integer(100, 120_000).default(10_000),
  },
  SLUICE_STOP_TIMEOUT_MS: {
    help: 'how long a stopping process waits for sends in flight',
    schema: integer(0, 600_000).default(25_000),
  },
  SLUICE_PUBLIC_URL: {
    help: 'where recipients reach this service, for links to unsubscribe: https://…',
    schema: publicUrl.optional(),
  },
  SLUICE_START_HELD: {
    help: 'for a restored database: why nothing is to be sent until a person releases it, such as backup-of-monday. The same words hold once',
    schema: z.string().min(1).max(500, 'must have at most 500 characters').optional(),
  },
  SLUICE_INBOX_KEEP: {
    help: 'newest mails the local inbox keeps',
    schema: integer(1, 1_000_000).default(1_000),
  },
  SLUICE_WEBHOOK_HOSTS: {
    help: 'hosts of your own that webhooks may go to beside the public internet: http://host:port or host:port, comma-separated',
    schema: listedHosts.optional(),
  },
  SLUICE_ENCRYPTION_KEYS: {
    help: 'keys for sensitive mail, id:base64 of 32 bytes, comma-separated: the first encrypts, all decrypt. Unset: sensitive mail is refused',
    schema: encryptionKeys.optional(),
  },
  NODE_ENV: { help: 'production refuses the local inbox', schema: z.string().optional() },
} as const

type Settings = { readonly [K in keyof typeof SETTINGS]: z.output<(typeof SETTINGS)[K]['schema']> }

export type Config = {
  readonly databaseUrl: string | undefined
  /** Set when the one above is that of a pooler in transaction mode. */
  readonly sessionDatabaseUrl: string | undefined
  readonly smtpUrl: string | undefined
  readonly apiKey: string | undefined
  readonly host: string
  readonly port: number
  /** Undefined: the API's own. */
  readonly metricsPort: number | undefined
  readonly roles: ReadonlySet<Role>
  readonly logLevel: Settings['LOG_LEVEL']
  readonly dataDir: string
  readonly dataDirIsExplicit: boolean
  readonly databaseConnections: number
  readonly maxBodyBytes: number
  readonly maxBulkBytes: number
  readonly attachmentHosts: readonly ListedHost[]
  readonly acceptTimeoutMs: number
  readonly stopTimeoutMs: number
  readonly inboxKeep: number
  /** A database held for this reason before is not held again. */
  readonly startHeld: string | undefined
  /** Without a slash at its end. */
  readonly publicUrl: string | undefined
  readonly webhookHosts: readonly ListedHost[]
  /** The first seals, all of them open; none: sensitive mail is refused. */
  readonly encryptionKeys: readonly EncryptionKey[]
  readonly isProduction: boolean
  /** The environment itself, for the variables that provider rows name. */
  readonly environment: Readonly<Record<string, string | undefined>>
}

/** Every setting that is wrong, at once. */
export class ConfigError extends Error {
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(`the settings are not usable:\n${problems.map((problem) => `  ${problem}`).join('\n')}`)
    this.name = 'ConfigError'
    this.problems = problems
  }
}

/** Reads the environment once, whole. An empty variable counts as unset. */
export function readConfig(environment: Readonly<Record<string, string | undefined>>): Config {
  const problems: string[] = []
  const values: Record<string, unknown> = {}
  for (const [name, { schema }] of Object.entries(SETTINGS)) {
    const parsed = schema.safeParse(environment[name] === '' ? undefined : environment[name])
    if (parsed.success) values[name] = parsed.data
    else problems.push(`${name}: ${parsed.error.issues[0]?.message ?? 'is not valid'}`)
  }
  const unknown = Object.keys(environment).filter((name) => name.startsWith('SLUICE_') && !(name in SETTINGS))
  problems.push(...unknown.map((name) => `${name} is not a setting of Sluice; see npm start -- --help`))
  const settings = values as Settings
  if (settings.NODE_ENV === 'production' && settings.SLUICE_PUBLIC_URL?.startsWith('http:')) {
    problems.push('SLUICE_PUBLIC_URL: must be https in production (RFC 8058 section 3.1)')
  }
  if (environment.NODE_TLS_REJECT_UNAUTHORIZED === '0') {
    problems.push(
      'NODE_TLS_REJECT_UNAUTHORIZED: 0 switches off the check of every certificate; leave it out, and trust a CA of your own with NODE_EXTRA_CA_CERTS',
    )
  }
  if (settings.SLUICE_SESSION_DATABASE_URL !== undefined && settings.DATABASE_URL === undefined) {
    problems.push('SLUICE_SESSION_DATABASE_URL: has a meaning only beside DATABASE_URL, which is the pooler')
  }
  if (problems.length > 0) throw new ConfigError(problems)

  return Object.freeze({
    databaseUrl: settings.DATABASE_URL,
    sessionDatabaseUrl: settings.SLUICE_SESSION_DATABASE_URL,
    smtpUrl: settings.SMTP_URL,
    apiKey: settings.SLUICE_API_KEY,
    host: settings.HOST,
    port: settings.PORT,
    metricsPort: settings.SLUICE_METRICS_PORT,
    roles: new Set(settings.SLUICE_ROLES),
    logLevel: settings.LOG_LEVEL,
    dataDir: settings.SLUICE_DATA_DIR ?? '.data',
    dataDirIsExplicit: settings.SLUICE_DATA_DIR !== undefined,
    databaseConnections: settings.SLUICE_DATABASE_CONNECTIONS,
    maxBodyBytes: settings.SLUICE_MAX_BODY_BYTES,
    maxBulkBytes: settings.SLUICE_MAX_BULK_BYTES,
    attachmentHosts: settings.SLUICE_ATTACHMENT_HOSTS ?? [],
    acceptTimeoutMs: settings.SLUICE_ACCEPT_TIMEOUT_MS,
    stopTimeoutMs: settings.SLUICE_STOP_TIMEOUT_MS,
    inboxKeep: settings.SLUICE_INBOX_KEEP,
    startHeld: settings.SLUICE_START_HELD,
    publicUrl: settings.SLUICE_PUBLIC_URL,
    webhookHosts: settings.SLUICE_WEBHOOK_HOSTS ?? [],
    encryptionKeys: settings.SLUICE_ENCRYPTION_KEYS ?? [],
    isProduction: settings.NODE_ENV === 'production',
    environment,
  })
}

/** The table that `--help` prints. */
export function describeSettings(): string {
  return Object.entries(SETTINGS)
    .map(([name, { help, schema }]) => {
      const preset = schema.safeParse(undefined).data
      const shown = preset === undefined || name === 'NODE_ENV' ? '' : ` [${String(preset)}]`
      return `  ${name.padEnd(28)} ${help}${shown}`
    })
    .join('\n')
}
