import { once } from 'node:events'
import { appendFile, cp, readFile, writeFile } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { Client, type QueryResultRow } from 'pg'
import { makeTestDirectory, startTestServer } from './database.ts'
import { eventually } from './eventually.ts'
import type { Scope } from './scope.ts'

export type PrimaryAndStandby = {
  /** What an app connects to: leads to the primary, and after `failOver` to what was the standby. */
  readonly url: string
  readonly standbyUrl: string
  /** Kills the primary, keeps everybody from it, promotes the standby, and leads the address there. */
  failOver(): Promise<void>
  /** One statement on a connection of its own, through the address; rejects while nobody is there. */
  query<Row extends QueryResultRow>(text: string, values?: unknown[]): Promise<Row[]>
}

/** Two servers of this test's own: the second follows the first by streaming, and each commit waits for it. */
export async function startPrimaryAndStandby(t: TestContext): Promise<PrimaryAndStandby> {
  const [primaryDir, standbyDir] = [await makeTestDirectory(t), await makeTestDirectory(t)]
  // Copied while it is shut down: a base backup that needs no program of its own.
  const original = await startTestServer(t, { dataDir: primaryDir })
  await original.stop()
  await copyCluster(original.dataDir, standbyDir, original.url)
  const primary = await startTestServer(t, { dataDir: primaryDir })
  const standby = await startTestServer(t, { dataDir: standbyDir })
  await run(primary.url, "alter system set synchronous_standby_names = '*'")
  await run(primary.url, 'select pg_reload_conf()')
  await eventually('commits wait for the standby', async () => {
    const followers = await run(primary.url, "select from pg_stat_replication where sync_state = 'sync'")
    return followers.length === 1
  })
  const address = await startAddress(t, portOf(primary.url))
  const url = new URL(primary.url)
  url.port = String(address.port)
  return {
    url: url.href,
    standbyUrl: standby.url,
    query: (text, values) => run(url.href, text, values),
    failOver: async () => {
      address.leadTo(undefined)
      process.kill(await postmasterOf(primary.dataDir), 'SIGKILL')
      await run(standby.url, 'select pg_promote()')
      address.leadTo(portOf(standby.url))
    },
  }
}

async function copyCluster(from: string, to: string, url: string): Promise<void> {
  await cp(from, to, { recursive: true })
  // Another port is chosen at its start, since the primary has this one.
  await writeFile(join(to, 'cluster', 'standby.signal'), '')
  const { username, password } = new URL(url)
  const primary = `host=127.0.0.1 port=${portOf(url)} user=${username} password=${password}`
  await appendFile(join(to, 'cluster', 'postgresql.auto.conf'), `primary_conninfo = '${primary}'\n`)
}

async function postmasterOf(dataDir: string): Promise<number> {
  const [pid] = (await readFile(join(dataDir, 'cluster', 'postmaster.pid'), 'utf8')).split('\n')
  return Number(pid)
}

/** A name that leads to another host after a failover, as a load balancer or DNS has it, or to nobody. */
export async function startAddress(t: Scope, first: number) {
  let target: number | undefined = first
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    if (target === undefined) return client.destroy()
    const there = connect(target, '127.0.0.1')
    for (const socket of [client, there]) {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
    }
    client.on('error', () => there.destroy())
    there.on('error', () => client.destroy())
    client.pipe(there).pipe(client)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const leadTo = (port: number | undefined) => {
    target = port
    for (const socket of sockets) socket.destroy()
  }
  t.after(() => {
    leadTo(undefined)
    server.close()
  })
  return { port: (server.address() as AddressInfo).port, leadTo }
}

function portOf(url: string): number {
  return Number(new URL(url).port)
}

async function run<Row extends QueryResultRow>(
  url: string,
  text: string,
  values?: unknown[],
): Promise<Row[]> {
  const client = new Client({ connectionString: url })
  // Cut off under us as well; the query itself then says so.
  client.on('error', () => undefined)
  await client.connect()
  try {
    return (await client.query<Row>(text, values)).rows
  } finally {
    await client.end()
  }
}
