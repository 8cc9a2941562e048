import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { watch } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { test } from 'node:test'
import { Client, type QueryResultRow } from 'pg'
import { findPostmaster } from '../../src/db/embedded-postmaster.ts'
import {
  beforeRemoval,
  makeClusterDirectory,
  makeTestDirectory,
  startTestServer,
} from '../support/database.ts'

test('data and URL are kept from one start to the next', async (t) => {
  const dataDir = await makeTestDirectory(t)
  const first = await startTestServer(t, { dataDir })
  await query(first.url, 'create table kept as select 42 as answer')
  await first.stop()
  assert.equal(postmasterOf(dataDir), undefined)

  const second = await startTestServer(t, { dataDir })
  assert.equal(second.url, first.url)
  assert.deepEqual(await query(second.url, 'select answer from kept'), [{ answer: 42 }])
})

test('the server is durable, listens on 127.0.0.1 alone and keeps its password to its user', async (t) => {
  const dataDir = await makeTestDirectory(t)
  const { url } = await startTestServer(t, { dataDir })
  const names = [
    'fsync',
    'synchronous_commit',
    'full_page_writes',
    'listen_addresses',
    'unix_socket_directories',
  ]
  const settings = await query<{ setting: string }>(
    url,
    `select setting from pg_settings join unnest($1::text[]) with ordinality as wanted (name, place) using (name) order by place`,
    [names],
  )
  assert.deepEqual(
    settings.map((row) => row.setting),
    ['on', 'on', 'on', '127.0.0.1', ''],
  )
  assert.equal(statSync(join(dataDir, 'connection.json')).mode & 0o777, 0o600)
  await assert.rejects(query(url.replace(/:[^:@]+@/, ':wrong@'), 'select 1'), { code: '28P01' })
})

test('a server killed with SIGKILL comes back on the same URL with all committed data', async (t) => {
  const events = eventLog()
  const dataDir = await makeClusterDirectory(t)
  const server = await startTestServer(t, { dataDir, log: events.log })
  await query(server.url, 'create table committed as select 1 as one')
  for (let round = 1; round <= 2; round++) {
    const restarted = events.next('postgres_restarted')
    process.kill(runningPostmasterOf(dataDir), 'SIGKILL')
    await restarted
    assert.deepEqual(await query(server.url, 'select one from committed'), [{ one: 1 }])
  }
})

test('a stop right after the server was killed leaves nothing running', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  const events = eventLog()
  const server = await startTestServer(t, { dataDir, log: events.log })
  const ended = events.next('postgres_ended')
  process.kill(runningPostmasterOf(dataDir), 'SIGKILL')
  await ended
  await server.stop()
  assert.equal(postmasterOf(dataDir), undefined)
})

test('a second start is a guest, and its stop leaves the server running', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  const owner = await startTestServer(t, { dataDir })
  const guest = await startTestServer(t, { dataDir })
  assert.deepEqual([owner.owned, guest.owned, guest.url], [true, false, owner.url])
  await guest.stop()
  assert.deepEqual(await query(owner.url, 'select 1 as one'), [{ one: 1 }])
})

test('of many first starts at once, one makes the database and the others use it', async (t) => {
  const dataDir = await makeTestDirectory(t)
  const children = [1, 2, 3].map(() => startInChild(dataDir))
  const started = await Promise.all(children.map((child) => child.started()))
  assert.equal(new Set(started.map((server) => server.url)).size, 1)
  assert.equal(started.filter((server) => server.owned).length, 1)
})

test('after the owner was killed with SIGKILL the next start adopts its server and supervises it', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  const child = startInChild(dataDir)
  const { url } = await child.started()
  const pid = runningPostmasterOf(dataDir)
  await kill(child.process)

  const events = eventLog()
  const server = await startTestServer(t, { dataDir, log: events.log })
  assert.deepEqual([server.owned, server.url, runningPostmasterOf(dataDir)], [true, url, pid])
  const restarted = events.next('postgres_restarted')
  process.kill(pid, 'SIGKILL')
  await restarted
  assert.deepEqual(await query(url, 'select 1 as one'), [{ one: 1 }])
})

test('after owner and server were killed together the next start recovers committed data', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  const child = startInChild(dataDir)
  const { url } = await child.started()
  await query(url, 'create table committed as select 1 as one')
  const pid = runningPostmasterOf(dataDir)
  await kill(child.process)
  process.kill(pid, 'SIGKILL')

  const server = await startTestServer(t, { dataDir })
  assert.deepEqual(await query(server.url, 'select one from committed'), [{ one: 1 }])
})

test('a start moves to another port when the kept one is taken, and keeps that', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  const first = await startTestServer(t, { dataDir })
  const port = Number(new URL(first.url).port)
  await first.stop()
  const intruder = createServer().listen(port, '127.0.0.1')
  await once(intruder, 'listening')
  t.after(() => intruder.close())

  const moved = await startTestServer(t, { dataDir })
  assert.notEqual(new URL(moved.url).port, String(port))
  assert.deepEqual(await query(moved.url, 'select 1 as one'), [{ one: 1 }])
  await moved.stop()
  assert.equal((await startTestServer(t, { dataDir })).url, moved.url)
})

test('a stale pid file does not stop a start, even when its pid is a live process by now', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  await (await startTestServer(t, { dataDir })).stop()
  const cluster = join(dataDir, 'cluster')
  const { uid, gid } = statSync(cluster)
  const stranger = spawn('sleep', ['600'], { cwd: '/', ...(process.getuid?.() === 0 ? { uid, gid } : {}) })
  t.after(() => kill(stranger))
  writeFileSync(join(cluster, 'postmaster.pid'), `${stranger.pid}\n${cluster}\n1\n`)

  const server = await startTestServer(t, { dataDir })
  assert.equal(server.owned, true)
  assert.equal(stranger.exitCode, null)
})

test('an owner file is not believed when its pid belongs to a later process', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  writeFileSync(join(dataDir, 'owner.json'), JSON.stringify({ pid: process.pid, startedAt: 'earlier' }))
  const server = await startTestServer(t, { dataDir })
  assert.equal(server.owned, true)
  await server.stop()
  assert.equal(existsSync(join(dataDir, 'owner.json')), false)
})

test('an interrupted first start leaves nothing that the next one mistakes for a database', async (t) => {
  const dataDir = await makeTestDirectory(t)
  const changes = watch(dataDir)
  const child = startInChild(dataDir)
  for await (const { filename } of changes) if (filename?.startsWith('cluster.partial-')) break
  await kill(child.process)
  const server = await startTestServer(t, { dataDir })
  assert.deepEqual(await query(server.url, 'select 1 as one'), [{ one: 1 }])
})

test('a server that cannot start says why, where its log is, and gives the directory back', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  const start = startTestServer(t, { dataDir, settings: { shared_buffers: 'plenty' } })
  await assert.rejects(start, (error: { code?: string; message?: string }) => {
    assert.equal(error.code, 'ended_before_ready')
    assert.match(error.message ?? '', /shared_buffers/)
    assert.match(error.message ?? '', /postgres\.log/)
    return true
  })
  assert.equal((await startTestServer(t, { dataDir })).owned, true)
})

test('a lost password is reported with the file it belongs in, and the server is not left running', async (t) => {
  const dataDir = await makeClusterDirectory(t)
  await (await startTestServer(t, { dataDir })).stop()
  const path = join(dataDir, 'connection.json')
  const connection: object = JSON.parse(readFileSync(path, 'utf8'))
  writeFileSync(path, JSON.stringify({ ...connection, password: 'wrong' }))
  await assert.rejects(startTestServer(t, { dataDir }), { code: 'cluster_unusable' })
  assert.equal(postmasterOf(dataDir), undefined)
})

/** Resolves on the next log line of a kind, so that tests wait for what happened rather than for time to pass. */
function eventLog() {
  const emitter = new EventEmitter()
  const emit = (details: object) => {
    if ('event' in details) emitter.emit(String(details.event))
  }
  return { log: { info: emit, warn: emit }, next: (event: string) => once(emitter, event) }
}

type StartedInChild = { url: string; owned: boolean }

/** Starts the server from a process that can be killed. */
function startInChild(dataDir: string): { process: ChildProcess; started(): Promise<StartedInChild> } {
  const module = new URL('../../src/db/embedded.ts', import.meta.url).href
  const binDir = process.env.SLUICE_TEST_BIN_DIR
  const options = JSON.stringify({ dataDir, port: 0, ...(binDir ? { binDir } : {}) })
  const script = `
    import { startEmbeddedPostgres } from ${JSON.stringify(module)}
    const log = { info() {}, warn() {} }
    const { url, owned } = await startEmbeddedPostgres({ ...${options}, log })
    console.log(JSON.stringify({ url, owned }))
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  beforeRemoval(dataDir, () => kill(child))
  return { process: child, started: () => firstLine(child.stdout) }
}

async function firstLine(stream: Readable): Promise<StartedInChild> {
  for await (const line of createInterface({ input: stream })) return JSON.parse(line)
  throw new Error('the child ended without starting a server')
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}

function postmasterOf(dataDir: string): number | undefined {
  return findPostmaster(join(dataDir, 'cluster'))?.pid
}

function runningPostmasterOf(dataDir: string): number {
  const pid = postmasterOf(dataDir)
  assert.ok(pid !== undefined, 'no server is running')
  return pid
}

async function query<Row extends QueryResultRow>(
  url: string,
  text: string,
  values?: unknown[],
): Promise<Row[]> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query<Row>(text, values)).rows
  } finally {
    await client.end()
  }
}
