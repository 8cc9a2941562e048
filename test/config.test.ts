import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigError, describeSettings, readConfig } from '../src/config.ts'

function problemsOf(environment: Record<string, string>): readonly string[] {
  try {
    readConfig(environment)
  } catch (error) {
    assert.ok(error instanceof ConfigError)
    for (const problem of error.problems) assert.ok(error.message.includes(problem))
    return error.problems
  }
  return []
}

test('an empty environment is a working configuration', () => {
  const { environment: _, ...config } = readConfig({})
  assert.deepEqual(config, {
    databaseUrl: undefined,
    sessionDatabaseUrl: undefined,
    smtpUrl: undefined,
    apiKey: undefined,
    host: '127.0.0.1',
    port: 3000,
    metricsPort: undefined,
    roles: new Set(['api', 'worker']),
    logLevel: 'info',
    dataDir: '.data',
    dataDirIsExplicit: false,
    databaseConnections: 12,
    maxBodyBytes: 56 * 1_024 * 1_024,
    maxBulkBytes: 64 * 1_024 * 1_024,
    attachmentHosts: [],
    acceptTimeoutMs: 10_000,
    stopTimeoutMs: 25_000,
    inboxKeep: 1_000,
    startHeld: undefined,
    publicUrl: undefined,
    webhookHosts: [],
    encryptionKeys: [],
    isProduction: false,
  })
})

test('an empty variable counts as unset', () =>
  assert.equal(readConfig({ PORT: '', DATABASE_URL: '', SLUICE_API_KEY: '' }).port, 3000))

test('every problem is reported at once, each under its name', () => {
  const problems = problemsOf({
    DATABASE_URL: 'mysql://localhost/mail',
    SMTP_URL: 'smtp://',
    SLUICE_API_KEY: 'short',
    PORT: '65536',
    SLUICE_ROLES: 'api,sender',
    LOG_LEVEL: 'loud',
    SLUICE_DATABASE_CONNECTIONS: 'many',
    SLUICE_MAX_BODY_BYTES: '-1',
    SLUICE_ACCEPT_TIMEOUT_MS: '1.5',
    SLUICE_ENCRYPTION_KEYS: 'k1:short',
    NODE_TLS_REJECT_UNAUTHORIZED: '0',
    SLUICE_DATABSE_CONNECTIONS: '4',
  })
  assert.deepEqual(
    problems.map((problem) => problem.split(/[: ]/)[0]),
    [
      'DATABASE_URL',
      'SMTP_URL',
      'SLUICE_API_KEY',
      'PORT',
      'SLUICE_ROLES',
      'LOG_LEVEL',
      'SLUICE_DATABASE_CONNECTIONS',
      'SLUICE_MAX_BODY_BYTES',
      'SLUICE_ACCEPT_TIMEOUT_MS',
      'SLUICE_ENCRYPTION_KEYS',
      'SLUICE_DATABSE_CONNECTIONS',
      'NODE_TLS_REJECT_UNAUTHORIZED',
    ],
  )
})

test('a problem says what would be right and repeats no secret', () => {
  const [database, smtp, key] = problemsOf({
    DATABASE_URL: 'http://user:hunter2@localhost/mail',
    SMTP_URL: 'http://user:hunter2@localhost',
    SLUICE_API_KEY: 'hunter2',
  })
  assert.match(database ?? '', /postgresql:\/\/user:password@host/)
  assert.match(smtp ?? '', /smtp:\/\/user:password@host/)
  assert.match(key ?? '', /at least 16 characters/)
  assert.ok([database, smtp, key].every((problem) => !problem?.includes('hunter2')))
})

test('a misspelt setting is refused, and other programs’ variables are not looked at', () => {
  assert.deepEqual(problemsOf({ SLUICE_DATADIR: '/tmp/x', PATH: '/bin', DATABSE_URL: 'x' }), [
    'SLUICE_DATADIR is not a setting of Sluice; see npm start -- --help',
  ])
})

test('a bootstrap key that no request could carry is refused', () => {
  for (const key of ['correct horse battery staple', 'schlüssel-0123456789', `${'k'.repeat(513)}`]) {
    assert.match(problemsOf({ SLUICE_API_KEY: key })[0] ?? '', /^SLUICE_API_KEY: must be at most 512 ASCII/)
  }
  assert.deepEqual(problemsOf({ SLUICE_API_KEY: 'k'.repeat(512) }), [])
})

test('the public URL is a plain one, loses the slash at its end, and is https in production', () => {
  const publicUrl = (url: string) => readConfig({ SLUICE_PUBLIC_URL: url }).publicUrl
  assert.equal(publicUrl('https://mail.example.com/'), 'https://mail.example.com')
  assert.equal(publicUrl('HTTPS://Mail.Example.com:8443/sluice//'), 'https://mail.example.com:8443/sluice')
  assert.equal(publicUrl('http://127.0.0.1:3000'), 'http://127.0.0.1:3000')
  for (const url of [
    'mail.example.com',
    'ftp://mail.example.com',
    'https://user:secret@mail.example.com',
    'https://mail.example.com?x=1',
    'https://mail.example.com#top',
    `https://mail.example.com/${'x'.repeat(200)}`,
  ]) {
    const [problem] = problemsOf({ SLUICE_PUBLIC_URL: url })
    assert.match(problem ?? '', /^SLUICE_PUBLIC_URL: must look like https:/, url)
  }
  const production = { NODE_ENV: 'production', SLUICE_PUBLIC_URL: 'http://mail.example.com' }
  assert.match(problemsOf(production)[0] ?? '', /^SLUICE_PUBLIC_URL: must be https in production/)
})

test('roles are a list with room around its commas', () => {
  assert.deepEqual(readConfig({ SLUICE_ROLES: 'worker' }).roles, new Set(['worker']))
  assert.deepEqual(readConfig({ SLUICE_ROLES: ' worker , api' }).roles, new Set(['api', 'worker']))
  assert.equal(problemsOf({ SLUICE_ROLES: ',' }).length, 1)
})

test('the configuration cannot be changed afterwards', () => {
  const config = readConfig({}) as { port: number }
  assert.throws(() => {
    config.port = 1
  }, TypeError)
})

test('the help names every setting and its default', () => {
  const help = describeSettings()
  for (const name of ['DATABASE_URL', 'SMTP_URL', 'SLUICE_API_KEY', 'SLUICE_DATA_DIR', 'NODE_ENV'])
    assert.match(help, new RegExp(`^ {2}${name} `, 'm'))
  assert.match(help, /PORT .*\[3000\]/)
  assert.match(help, /SLUICE_ROLES .*\[api,worker\]/)
})
