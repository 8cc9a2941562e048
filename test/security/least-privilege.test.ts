/**
 * As much of the image as can be tried without an engine for containers: the service with nothing but what the Dockerfile and
 * the manifests leave it. Needs root, `unshare` and `setpriv`; the file says so and skips where they are missing.
 */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { migrate } from '../../src/db/migrate.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase } from '../support/database.ts'
import { untilStatus } from '../support/messages.ts'
import { orderMail, TEST_KEY } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const NOBODY = 65_534

/** Everything that is mounted becomes read-only for this process, and /proc and /dev stay; then all rights go. */
const SCRIPT = `
for place in $(cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^/(proc|sys|dev)(/|$)'); do
  mount -o remount,bind,ro "$place" 2>/dev/null
done
exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$0" src/main.js`

/** Why it cannot be tried here, or undefined. */
async function obstacle(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'only root may make a namespace to try it in'
  try {
    await promisify(execFile)('unshare', [
      '--mount',
      '--propagation',
      'private',
      'sh',
      '-c',
      'mount -o remount,bind,ro / && setpriv --version',
    ])
    await promisify(execFile)('setpriv', [
      `--reuid=${NOBODY}`,
      `--regid=${NOBODY}`,
      '--clear-groups',
      process.execPath,
      '--check',
      `${ROOT}src/main.js`,
    ])
  } catch (error) {
    return `namespaces, setpriv, or this checkout are not open to another user: ${(error as Error).message.split('\n')[0]}`
  }
  return undefined
}

test('the service works as nobody, without a capability, a shell, npm, or a place to write', async (t) => {
  const reason = await obstacle()
  if (reason !== undefined) {
    t.skip(reason)
    return
  }
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  await migrate({ url: database.url, log: createLog('silent') })
  const child = spawn(
    'unshare',
    ['--mount', '--propagation', 'private', 'sh', '-c', SCRIPT, process.execPath],
    {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
      // A path on which the shell above finds its programs, and which node hands on to nobody.
      env: {
        PATH: process.env.PATH,
        NODE_ENV: 'production',
        DATABASE_URL: database.url,
        SMTP_URL: sink.url,
        SLUICE_API_KEY: TEST_KEY,
        PORT: '0',
        TMPDIR: '/nonexistent',
        HOME: '/nonexistent',
      },
    },
  )
  const ended = once(child, 'exit')
  database.beforeDrop(async () => {
    child.kill('SIGKILL')
    await ended
  })
  let output = ''
  child.stderr.on('data', (chunk) => {
    output += chunk
  })
  const listening = new Promise<string | undefined>((resolve) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      output += `${line}\n`
      const event = line.startsWith('{') ? (JSON.parse(line) as { msg?: string; url?: string }) : {}
      if (event.msg === 'listening') resolve(event.url)
    })
  })
  const url = await Promise.race([listening, ended.then(() => undefined)])
  assert.ok(url !== undefined, output)
  const response = await fetch(new URL('/emails', url), {
    method: 'POST',
    headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'application/json' },
    body: JSON.stringify(orderMail()),
  })
  const { id } = (await response.json()) as { id: string }
  await untilStatus(database, id, 'sent')
  const status = await readFile(`/proc/${child.pid}/status`, 'utf8')
  for (const line of [
    /^Uid:\s+65534\s+65534\s/m,
    /^CapEff:\s+0+$/m,
    /^CapPrm:\s+0+$/m,
    /^CapBnd:\s+0+$/m,
    /^NoNewPrivs:\s+1$/m,
  ]) {
    assert.match(status, line)
  }
  const mounts = (await readFile(`/proc/${child.pid}/mountinfo`, 'utf8'))
    .split('\n')
    .map((line) => line.split(' '))
  const writable = mounts.filter(
    ([, , , , place = '', options = '']) =>
      !/^\/(?:proc|sys|dev)(?:\/|$)/.test(place) && /^rw\b/.test(options),
  )
  assert.deepEqual(
    writable.map(([, , , , place]) => place),
    [],
  )
  const tasks = await readFile(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8')
  assert.equal(tasks.trim(), '', 'it starts no other program')
  child.kill('SIGTERM')
  assert.deepEqual(await ended, [0, null], output)
})

test('the image runs node itself, as a user, and brings neither npm’s scripts nor a development tool', async () => {
  const dockerfile = await readFile(new URL('../../Dockerfile', import.meta.url), 'utf8')
  const last = dockerfile.slice(dockerfile.lastIndexOf('\nFROM '))
  assert.match(dockerfile, /npm ci --omit=dev --omit=optional --ignore-scripts/)
  assert.match(last, /^USER node$/m)
  // In the form of lists, which no shell reads.
  assert.match(last, /^CMD \["node", (?:"--[\w=-]+", )*"src\/main\.js"\]$/m)
  assert.match(last, /^ {2}CMD \["node", "-e", /m)
  assert.doesNotMatch(last, /^(?:RUN|ADD|ENTRYPOINT|VOLUME)\b/m)
  assert.doesNotMatch(last, /(?:PASSWORD|SECRET|TOKEN|_KEY|DATABASE_URL|SMTP_URL)=/)
})
