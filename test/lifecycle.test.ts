/** The process as a user starts it: one command, nothing else installed. */
import assert from 'node:assert/strict'
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { getPriority } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createTestDatabase, makeTestDirectory, withDatabase } from './support/database.ts'
import { eventually } from './support/eventually.ts'
import { spawnService } from './support/service.ts'
import { stallMigrations } from './support/stalled-migration.ts'

const MAIN = fileURLToPath(new URL('../src/main.js', import.meta.url))

type Started = {
  readonly process: ChildProcess
  /** Resolves with all that a person has seen on the terminal, as soon as it has this in it. */
  shown(pattern: RegExp): Promise<string>
  /** Resolves with the exit code. */
  readonly ended: Promise<number | null>
}

function start(t: TestContext, environment: Record<string, string>, ...args: string[]): Started {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: {
      PATH: process.env.PATH,
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
      PORT: '0',
      LOG_LEVEL: 'warn',
      ...environment,
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let text = ''
  child.stderr.on('data', (chunk) => {
    text += chunk
  })
  const ended = once(child, 'exit').then(([code]) => code as number | null)
  t.after(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const shown = (pattern: RegExp) =>
    eventually(
      `the terminal shows ${pattern}`,
      async () => {
        if (child.exitCode !== null && !pattern.test(text)) {
          throw new Error(`it ended with ${child.exitCode}:\n${text}`)
        }
        return pattern.test(text) && text
      },
      60_000,
    )
  return { process: child, shown, ended }
}

async function stop(service: Started): Promise<void> {
  service.process.kill('SIGTERM')
  assert.equal(await service.ended, 0)
}

function partOf(text: string, pattern: RegExp): string {
  const [, part = ''] = pattern.exec(text) ?? []
  assert.notEqual(part, '', `${pattern} is not in:\n${text}`)
  return part
}

/** Runs the line in a shell, as a user pastes it; where curl is missing, sends what it says. */
async function paste(line: string): Promise<unknown> {
  try {
    const { stdout } = await promisify(execFile)('sh', [
      '-c',
      `${line} --silent --show-error --fail-with-body`,
    ])
    return JSON.parse(stdout)
  } catch (error) {
    // 127 is the shell's: no such command.
    if ((error as { code?: unknown }).code !== 127) throw error
  }
  const headers = [...line.matchAll(/-H ["']([^:]+): ([^"']+)["']/g)].map(
    ([, name = '', value = '']) => [name, value] as [string, string],
  )
  const url = partOf(line, /^curl (\S+)/)
  const response = await fetch(url, { method: 'POST', headers, body: partOf(line, /-d '([^']+)'/) })
  assert.equal(response.status, 200)
  return response.json()
}

test('one command gives a database, a key and a curl line that works when pasted, and all of it is kept', async (t) => {
  const environment = { SLUICE_DATA_DIR: await makeTestDirectory(t) }
  const first = start(t, environment)
  const greeting = await first.shown(/\ncurl .*\n/)
  const key = partOf(greeting, /API key {4}(sluice_\S+) /)
  const { id } = (await paste(partOf(greeting, /\n(curl .*)\n/))) as { id: string }
  const inbox = async (text: string) => {
    const response = await fetch(partOf(text, /(http:\S+\/inbox)/))
    return response.status === 200 && (await response.text())
  }
  const page = await eventually('the mail is in the inbox', async () => {
    const html = await inbox(greeting)
    return html !== false && html.includes('Hello') && html
  })
  assert.match(page, /ann@example\.com/)
  await stop(first)

  const second = start(t, environment)
  const again = await second.shown(/\ncurl .*\n/)
  assert.match(again, /API key {4}made earlier/)
  assert.doesNotMatch(again, /sluice_/)
  assert.match(String(await inbox(again)), /Hello/)
  const url = partOf(again, /listens on (\S+)/)
  const headers = { Authorization: `Bearer ${key}` }
  const response = await fetch(`${url}/emails/${id}`, { headers })
  const email = (await response.json()) as { id: string; status: string }
  assert.deepEqual([response.status, email.id, email.status], [200, id, 'sent'])
  // The line of a second start names a variable, as the key is not shown twice.
  const line = partOf(again, /\n(curl .*)\n/)
  assert.ok(((await paste(`SLUICE_API_KEY='${key}'; ${line}`)) as { id: string }).id)
  await stop(second)
})

test('when its port is taken it says so and ends, leaving no worker behind', async (t) => {
  const database = await createTestDatabase(t)
  const occupant = createServer()
  occupant.listen(0, '127.0.0.1')
  await once(occupant, 'listening')
  t.after(() => occupant.close())
  const { port } = occupant.address() as AddressInfo
  const service = start(t, { DATABASE_URL: database.url, PORT: String(port) })
  assert.equal(await service.ended, 1)
  assert.match(await service.shown(/EADDRINUSE/), new RegExp(String(port)))
  assert.deepEqual(await database.query('select * from mail.worker'), [])
})

test('a signal in the moment in which it is ready finds it listening for that, and its worker signs off', async (t) => {
  const database = await createTestDatabase(t)
  for (const roles of ['api', 'worker', 'api,worker']) {
    const service = await spawnService(t, database.url, { SLUICE_ROLES: roles })
    service.process.kill('SIGTERM')
    assert.equal(await service.ended, 0, roles)
    assert.match(service.output(), /"isClean":true/)
  }
  assert.deepEqual(await database.query('select * from mail.worker'), [])
})

test('a signal ends it while it waits for another to migrate', { timeout: 60_000 }, async (t) => {
  const database = await createTestDatabase(t)
  // What is up to date would not be waited for longer than some seconds.
  await database.query('delete from mail.migration where version = (select max(version) from mail.migration)')
  const { untilOneWaits } = await stallMigrations(database)
  const service = start(t, { DATABASE_URL: database.url })
  await untilOneWaits()
  await stop(service)
})

test('a process of workers alone gives way to others on the machine, unless it was given a priority', async (t) => {
  const database = await createTestDatabase(t)
  const nicenessOf = async (roles: string, prefix: readonly string[] = []) => {
    const { pid } = await spawnService(t, database.url, { SLUICE_ROLES: roles }, { prefix })
    return getPriority(pid)
  }
  assert.equal(await nicenessOf('worker'), 5)
  assert.equal(await nicenessOf('worker', ['nice', '-n', '2']), 2)
  assert.equal(await nicenessOf('api'), 0)
  assert.equal(await nicenessOf('api,worker'), 0)
})

test('settings that cannot be used are reported all at once, with an exit code of their own', async (t) => {
  const service = start(t, { PORT: 'many', SLUICE_ROLES: 'cook', SLUICE_NOT_A_SETTING: '1' })
  assert.equal(await service.ended, 78)
  const text = await service.shown(/SLUICE_NOT_A_SETTING/)
  assert.match(text, /PORT:? must be a whole number/)
  assert.match(text, /SLUICE_ROLES/)
})

test('a database that cannot be had is told of with what to do, and not with where in the code that showed', async (t) => {
  const database = await createTestDatabase(t)
  const cases = [
    [
      'postgresql://app:hidden@127.0.0.1:1/mail',
      /^127\.0\.0\.1:1\/mail cannot be reached: .*\nWhat to do: start Postgres there/,
    ],
    [
      withDatabase(database.url, 'nowhere'),
      /\/nowhere cannot be reached: .*\nWhat to do: create the database/,
    ],
  ] as const
  for (const [url, text] of cases) {
    const service = start(t, { DATABASE_URL: url })
    assert.equal(await service.ended, 1, 'it may be there in a moment')
    const shown = await service.shown(text)
    assert.doesNotMatch(shown, /^ {4}at |hidden/m)
  }
  const dataDir = await makeTestDirectory(t)
  await writeFile(join(dataDir, 'connection.json'), 'broken')
  const service = start(t, { SLUICE_DATA_DIR: dataDir })
  assert.equal(await service.ended, 1)
  assert.doesNotMatch(await service.shown(/connection\.json.* cannot be read/), /^ {4}at /m)
})

test('what it is asked to do is done and it ends: help, migrate, an unknown command', async (t) => {
  const database = await createTestDatabase(t)
  const environment = { DATABASE_URL: database.url }
  assert.equal(await start(t, environment, '--help').ended, 0)
  assert.equal(await start(t, environment, 'migrate').ended, 0)
  assert.equal(await start(t, environment, 'key', 'create', '--name', 'shop').ended, 0)
  const [row] = await database.query<{ name: string }>('select name from mail.api_key')
  assert.equal(row?.name, 'shop')
  const confused = start(t, environment, 'dance')
  assert.equal(await confused.ended, 64)
  await confused.shown(/no command "dance"/)
})
