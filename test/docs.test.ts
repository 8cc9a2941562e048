import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Client } from 'pg'
import { createTestDatabase, makeTestDirectory, type TestDatabase } from './support/database.ts'
import { eventually } from './support/eventually.ts'
import { startTestService, TEST_KEY } from './support/service.ts'

const ROOT = new URL('../', import.meta.url)
const CURL = fileURLToPath(new URL('support/curl.ts', import.meta.url))

/** The documents with commands, and the dead letters that their examples mean to leave. */
const DOCUMENTS: Readonly<Record<string, readonly string[]>> = {
  'README.md': [],
  'docs/rest.md': [],
  'docs/keys.md': [],
  'docs/sql.md': ['invalid_message'],
  'docs/templates.md': ['template_missing_variable'],
  'docs/operating.md': [],
  'docs/dead-letters.md': [],
  'docs/providers.md': [],
  'docs/send-windows.md': [],
  'docs/suppression.md': [],
  'docs/feedback.md': [],
  'docs/unsubscribe.md': [],
  'docs/webhooks.md': [],
  'docs/events.md': [],
  'docs/bounces.md': [],
  'docs/performance.md': [],
  'docs/guarantees.md': [],
  'docs/production.md': [],
  'docs/deployments.md': [],
  'docs/scaling.md': [],
  'docs/crash-points.md': [],
  'docs/statistics.md': [],
  'docs/alerts.md': [],
  'docs/retention.md': [],
  'docs/monitoring.md': [],
  'SECURITY.md': [],
}

/** What the session of a document promises to have done, as one value. */
const PROMISES: Readonly<Record<string, { readonly query: string; readonly value: number }>> = {
  'docs/dead-letters.md': {
    query: `select count(*)::integer as value from mail.message
      where template = 'welcome' and template_version = 2 and status = 'sent'`,
    value: 500,
  },
  'docs/providers.md': {
    query: `select count(*)::integer as value from mail.message
      where stream = 'drill' and provider = 'default' and status = 'sent'
        and exists (select from mail.provider_event where provider = 'drill' and type = 'breaker_opened')`,
    value: 30,
  },
}

/** Roles belong to the whole server: what the documents make is taken away before and after. */
const ROLES = ['shop_app', 'sluice_app', 'sluice_pooled']

for (const [file, deadLetters] of Object.entries(DOCUMENTS)) {
  test(`every command and query of ${file} works as printed`, async (t) => {
    const database = await createTestDatabase(t)
    const service = await startTestService(database, { DRILL_TOKEN: 'drill' })
    const client = await connect(database)
    let emailId = ''
    for (const { language, code } of blocksOf(await readFile(new URL(file, ROOT), 'utf8'))) {
      if (language !== 'console') await untilAtRest(database)
      if (language === 'sql') await client.query(code)
      if (language === 'sh') {
        const printed = await runShell(code, service.url ?? '', emailId)
        emailId = /"id":"([^"]+)"/.exec(printed)?.[1] ?? emailId
      }
      if (language === 'json') JSON.parse(code)
      const program = PROGRAMS[language]
      if (program !== undefined) await runProgram(t, program, code, service.url ?? '')
    }
    await eventually('every message of the document reaches its end', async () => {
      const waiting = await database.query(
        `select from mail.message where status not in ('sent', 'dead', 'canceled')
         union all select from mail.outbox union all select from mail.intake`,
      )
      return waiting.length === 0
    })
    const dead = await database.query<{ code: string }>('select code from mail.dlq order by code')
    assert.deepEqual(
      dead.map((row) => row.code),
      deadLetters,
    )
    const promise = PROMISES[file]
    if (promise !== undefined) {
      assert.deepEqual(await database.query(promise.query), [{ value: promise.value }])
    }
  })
}

/**
 * Between the blocks a person reads: new rows are known by then, and mail has come to rest, sent or held.
 * Seen three times in a row, since the catalog is told of its new queues a moment after they are there.
 */
async function untilAtRest(database: TestDatabase): Promise<void> {
  let atRest = 0
  await eventually(
    'mail comes to rest',
    async () => {
      const moving = await database.query(
        `select from mail.outbox
       union all select from mail.intake
       union all
       select from mail.stream s
       where not exists (select from pgboss.queue q where q.name = 'process.' || s.name)
         or exists (
           select from mail.provider p
           where not exists (select from pgboss.queue q where q.name = format('dispatch.%s.%s', p.name, s.name))
         )
       union all
       select from mail.message m join mail.stream s on s.name = m.stream
       where m.status in ('accepted', 'sending')
         or m.status in ('queued', 'deferred') and s.paused_at is null and mail.window_opens(s.name, now()) is null and exists (
           select from unnest(s.route) as r (name) cross join lateral mail.provider_hold(r.name) h where h.until is null
         )`,
      )
      atRest = moving.length === 0 ? atRest + 1 : 0
      return atRest >= 3
    },
    60_000,
  )
}

async function connect(database: TestDatabase): Promise<Client> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  const dropRoles = async () => {
    for (const role of ROLES) await client.query(`drop role if exists ${role}`)
  }
  await dropRoles()
  database.beforeDrop(async () => {
    await dropRoles()
    await client.end()
  })
  return client
}

function blocksOf(markdown: string): { language: string; code: string }[] {
  return [...markdown.matchAll(/^```(\w+)\n([\s\S]*?)^```/gm)].map(([, language = '', code = '']) => ({
    language,
    code,
  }))
}

/** What runs a program: from standard input in the repository, or from a file of its own. */
type Program = { readonly command: string; readonly args: readonly string[]; readonly file?: string }
const PROGRAMS: Readonly<Record<string, Program>> = {
  js: { command: process.execPath, args: ['--input-type=module', '-'] },
  python: { command: 'python3', args: ['-'] },
  go: { command: 'go', args: ['run', 'main.go'], file: 'main.go' },
}

/** Programs of the documents send a mail and print its id. Those whose language is not there are passed over. */
async function runProgram(t: TestContext, program: Program, code: string, url: string): Promise<void> {
  const source = code.replaceAll('http://127.0.0.1:3000', url)
  const cwd = program.file === undefined ? fileURLToPath(ROOT) : await makeTestDirectory(t)
  if (program.file !== undefined) await writeFile(join(cwd, program.file), source)
  const child = spawn(program.command, program.args, {
    cwd,
    env: { PATH: process.env.PATH, HOME: process.env.HOME, SLUICE_API_KEY: TEST_KEY },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const isThere = await new Promise<boolean>((resolve) => {
    child.once('spawn', () => resolve(true))
    child.once('error', () => resolve(false))
  })
  if (!isThere) {
    t.diagnostic(`no ${program.command} here: its example was not run`)
    return
  }
  child.stdin.end(source)
  const [printed, complaints] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  assert.equal(child.exitCode, 0, `${code}\nprinted ${printed}${complaints}`)
  assert.match(printed, /^[0-9a-f]{8}-[0-9a-f-]{27}\n$/)
}

async function runShell(code: string, url: string, emailId: string): Promise<string> {
  const script = `curl() { "$NODE" "$CURL" "$@"; }\n${code.replaceAll('http://127.0.0.1:3000', url)}`
  const child = spawn('sh', ['-eu', '-c', script], {
    env: {
      PATH: process.env.PATH,
      NODE: process.execPath,
      CURL,
      SLUICE_API_KEY: TEST_KEY,
      EMAIL_ID: emailId,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const [printed, complaints] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  assert.equal(child.exitCode, 0, `${code}\nprinted ${printed}${complaints}`)
  return printed
}
