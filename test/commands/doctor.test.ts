/** `doctor` as a person runs it. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Finding } from '../../src/doctor/finding.ts'
import { reportText } from '../../src/doctor/report.ts'
import { assertFinding } from '../doctor/findings.ts'
import { createTestDatabase, makeTestDirectory, startTestServer, withDatabase } from '../support/database.ts'
import { startKillablePostgres } from '../support/killable-postgres.ts'
import { spawnService, TEST_KEY } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url))

async function doctor(environment: Record<string, string>, ...args: string[]) {
  const { PATH, NODE_COMPILE_CACHE } = process.env
  const child = spawn(process.execPath, [MAIN, 'doctor', ...args], {
    env: { PATH, NODE_COMPILE_CACHE, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const [output, words] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  return { code: child.exitCode, output, words }
}

async function findingsOf(
  environment: Record<string, string>,
): Promise<{ code: number | null; findings: Finding[] }> {
  const { code, output, words } = await doctor(environment, '--json')
  assert.equal(words, '')
  return { code, findings: JSON.parse(output) }
}

test('a healthy system has no problem and no warning, and is as it was', async (t) => {
  const server = await startKillablePostgres(t)
  const sink = await startSmtpSink(t)
  const environment = { SMTP_URL: sink.url, SLUICE_PUBLIC_URL: 'https://mail.example.com' }
  const service = await spawnService(t, server.url, environment)
  const { code, output, words } = await doctor({
    ...environment,
    DATABASE_URL: server.url,
    SLUICE_API_KEY: TEST_KEY,
  })
  assert.equal(words, '')
  assert.equal(code, 0, output)
  assert.doesNotMatch(output, /warning {2}|problem {2}|skipped {2}/)
  assert.match(output, /^✓ ok {7}workers +1 worker: /m)
  assert.match(output, /\n\d+ ok, 0 warnings, 0 problems, 0 skipped\n$/)
  assert.ok(!output.includes('\u001b'), 'no colours where nobody looks')
  assert.ok(!output.includes(new URL(server.url).password), 'and no password')
  assert.equal(service.process.exitCode, null)
})

test('a database that was not migrated is told of, and stays empty', async (t) => {
  const database = await createTestDatabase(t)
  await database.query('drop schema mail cascade; drop schema pgboss cascade')
  const { code, findings } = await findingsOf({ DATABASE_URL: database.url })
  assert.equal(code, 1)
  assertFinding(findings, 'migrations', 'problem', /has not been migrated/)
  assertFinding(findings, 'provider default', 'ok', /local inbox/)
  assert.deepEqual(await database.query("select from pg_namespace where nspname in ('mail', 'pgboss')"), [])
})

test('a database of an older version is looked at as far as that goes', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    'alter table mail.worker drop column version; delete from mail.migration where version > 20',
  )
  const { code, findings } = await findingsOf({ DATABASE_URL: database.url })
  assert.equal(code, 1)
  assertFinding(findings, 'migrations', 'problem', /^the database lacks 0021/)
  assertFinding(findings, 'workers', 'skipped', /needs the migrations/)
  assertFinding(findings, 'roles', 'ok', /works as mail_service/)
})

test('a database that cannot be reached is told of with the reason, and providers are looked at all the same', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const wrongPassword = new URL(database.url)
  wrongPassword.password = 'wrong-secret'
  for (const { url, says, advises } of [
    {
      url: 'postgresql://a:b@127.0.0.1:1/mail',
      says: /127.0.0.1:1\/mail cannot be reached.*ECONNREFUSED/,
      advises: /start Postgres/,
    },
    { url: 'postgresql://a:b@db.invalid/mail', says: /ENOTFOUND/, advises: /correct the host/ },
    { url: wrongPassword.href, says: /password authentication failed/, advises: /correct user and password/ },
    {
      url: withDatabase(database.url, 'nowhere'),
      says: /"nowhere" does not exist/,
      advises: /create the database/,
    },
  ]) {
    const { code, findings } = await findingsOf({ DATABASE_URL: url, SMTP_URL: sink.url })
    assert.equal(code, 1)
    const { found, advice } = assertFinding(findings, 'DATABASE_URL', 'problem', says)
    assert.doesNotMatch(found, /wrong-secret/)
    assert.match(advice ?? '', advises)
    assertFinding(findings, 'provider default', 'ok', /without a login/)
  }
})

test('settings that cannot be read come first, all of them', async () => {
  const { code, findings } = await findingsOf({ PORT: 'x', SLUICE_TYPO: '1', SMTP_URL: 'http://relay' })
  assert.equal(code, 1)
  assertFinding(findings, 'settings', 'problem', /^PORT: must be a whole number/)
  assertFinding(findings, 'settings', 'problem', /^SLUICE_TYPO is not a setting/)
  assertFinding(findings, 'settings', 'problem', /^SMTP_URL: /)
  assert.equal(findings.length, 4)
})

test('the embedded Postgres is found while it runs, and neither made nor started', async (t) => {
  const dataDir = await makeTestDirectory(t)
  const environment = { SLUICE_DATA_DIR: dataDir }
  const before = await findingsOf(environment)
  assert.equal(before.code, 0)
  assertFinding(before.findings, 'embedded Postgres', 'skipped', /yet: the first start makes it/)
  const server = await startTestServer(t, { dataDir })
  const running = await findingsOf({ ...environment, NODE_ENV: 'production', SMTP_URL: 'smtp://127.0.0.1:1' })
  assertFinding(running.findings, 'embedded Postgres', 'ok', /^runs in /)
  assertFinding(running.findings, 'embedded Postgres', 'warning', /on this machine alone/)
  assertFinding(running.findings, 'migrations', 'problem', /has not been migrated/)
  await server.stop()
  const stopped = await findingsOf(environment)
  assertFinding(stopped.findings, 'embedded Postgres', 'skipped', /is not running/)
})

test('a cluster that others may read is told of', async (t: TestContext) => {
  const dataDir = await makeTestDirectory(t)
  await mkdir(join(dataDir, 'cluster'), { mode: 0o755 })
  await writeFile(join(dataDir, 'connection.json'), '{"port": 1, "password": "x"}')
  const { findings } = await findingsOf({ SLUICE_DATA_DIR: dataDir })
  assertFinding(findings, 'embedded Postgres', 'problem', /may be read by other users/)
})

test('a word too many is refused, and help is there', async () => {
  const wrong = await doctor({}, '--send')
  assert.equal(wrong.code, 64)
  assert.match(wrong.words, /--send/)
  const help = await doctor({}, '--help')
  assert.equal(help.code, 0)
  assert.match(help.output, /--json/)
})

test('the report aligns its columns, keeps foreign words in their line, and colours for a terminal alone', () => {
  const findings: Finding[] = [
    { name: 'a', verdict: 'ok', found: 'fine' },
    { name: 'longer', verdict: 'problem', found: 'two\nlines\u001b[2J', advice: 'repair it' },
  ]
  assert.equal(
    reportText(findings, { isColoured: false }),
    [
      '✓ ok       a       fine',
      '✗ problem  longer  two lines [2J',
      '                   → repair it',
      '',
      '1 ok, 0 warnings, 1 problem, 0 skipped',
      '',
    ].join('\n'),
  )
  assert.ok(reportText(findings, { isColoured: true }).includes('\u001b[31m✗ problem\u001b[0m'))
})
