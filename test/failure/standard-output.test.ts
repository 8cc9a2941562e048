import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { before, type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { freePort } from '../../scripts/bench/free-port.ts'
import { createTestDatabase, makeTestDirectory, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, TEST_KEY } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url))

let database: TestDatabase
before(async (t) => {
  database = await createTestDatabase(t as TestContext)
})

/** A service that writes there, and sends a mail: resolves when that has come. */
async function sendsMail(
  t: TestContext,
  standardOutput: number,
  standardError: number | 'ignore' = 'ignore',
) {
  const sink = await startSmtpSink(t)
  const port = await freePort()
  const child = spawn(process.execPath, [MAIN], {
    env: {
      PATH: process.env.PATH,
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
      ...{ DATABASE_URL: database.url, SMTP_URL: sink.url, PORT: String(port), SLUICE_API_KEY: TEST_KEY },
    },
    stdio: ['ignore', standardOutput, standardError],
  })
  const ended = once(child, 'exit')
  t.after(() => child.kill('SIGKILL'))
  const answer = await eventually('the mail is accepted', () =>
    fetch(`http://127.0.0.1:${port}/emails`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(orderMail()),
    }).catch(() => undefined),
  )
  assert.equal(answer.status, 200)
  await sink.waitForMails(1)
  return async () => {
    child.kill('SIGTERM')
    assert.deepEqual(await ended, [0, null])
  }
}

/** A pipe with a name; `end` is held by its reader, which need not read. */
async function openPipe(t: TestContext): Promise<{ end: number; forWriter: number }> {
  const path = join(await makeTestDirectory(t), 'pipe')
  assert.equal(spawnSync('mkfifo', [path]).status, 0)
  const end = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
  return { end, forWriter: openSync(path, 'w') }
}

/** False when there is no room, or nothing to read. */
function goesAtOnce(operation: () => number): boolean {
  try {
    return operation() > 0
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false
    throw error
  }
}

test('a service whose standard output nobody reads sends mail, and its log is there when somebody does', async (t) => {
  const { end, forWriter } = await openPipe(t)
  const page = Buffer.alloc(4_096, '-')
  while (goesAtOnce(() => writeSync(end, page)));
  const stop = await sendsMail(t, forWriter)
  let text = ''
  const chunk = Buffer.alloc(65_536)
  await eventually('the log arrives', async () => {
    let length = 0
    while (
      goesAtOnce(() => {
        length = readSync(end, chunk)
        return length
      })
    )
      text += chunk.toString('utf8', 0, length)
    return text.includes('"msg":"listening"')
  })
  for (const line of text.replace(/^-+/, '').trim().split('\n')) assert.ok(JSON.parse(line), line)
  await stop()
  for (const each of [end, forWriter]) closeSync(each)
})

test('a service with standard output and error on a full disk sends mail', async (t) => {
  const full = openSync('/dev/full', 'w')
  const stop = await sendsMail(t, full, full)
  await stop()
  closeSync(full)
})

test('a service whose standard output and error were closed by their reader sends mail', async (t) => {
  const { end, forWriter } = await openPipe(t)
  closeSync(end)
  const stop = await sendsMail(t, forWriter, forWriter)
  await stop()
  closeSync(forWriter)
})
