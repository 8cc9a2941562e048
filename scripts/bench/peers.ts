/** The queues that a team would take instead, each with its own processes over its own store. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { nextMessage, startChild } from './child.ts'
import type { Watched } from './cpu.ts'
import { freePort } from './free-port.ts'
import { findProgram } from './program.ts'
import { makeDirectory, type Rig } from './rig.ts'

export type PeerOrder = { readonly first: number; readonly count: number }
export type PeerReport = { readonly kind: 'ready' } | { readonly kind: 'added'; readonly startedAtNs: string }

const PEERS = fileURLToPath(new URL('./peers/', import.meta.url))
const INSTALL_MS = 180_000

/** Where a queue's jobs are, and who has to be watched for that. */
export type Store = { readonly url: string; readonly watched: Watched; close(): void }

/** A queue that can be measured here, or what is missing for it. */
export type Peer = {
  readonly name: 'BullMQ' | 'graphile-worker' | 'pg-boss'
  readonly missing: string | undefined
  open(rig: Rig, benchmark: string): Promise<Store>
  readonly file: string
}

/** All of them; those that cannot be installed here say why. */
export function findPeers(say: (line: string) => void): readonly Peer[] {
  const failure = installPeers(say)
  const onPostgres = (peer: string) => async (rig: Rig, benchmark: string) => ({
    url: await rig.createDatabase(`${benchmark}_${peer}`),
    watched: rig.postgres,
    close: () => undefined,
  })
  return [
    {
      name: 'BullMQ',
      file: './peers/bullmq-process.ts',
      missing:
        failure ?? (findProgram('redis-server') === undefined ? 'redis-server is not installed' : undefined),
      open: startRedis,
    },
    {
      name: 'graphile-worker',
      file: './peers/graphile-worker-process.ts',
      missing: failure,
      open: onPostgres('graphile_worker'),
    },
    {
      name: 'pg-boss',
      file: './peers/pg-boss-process.ts',
      missing: undefined,
      open: onPostgres('pg_boss'),
    },
  ]
}

/** Exactly what their lock file says, into their own folder; the reason when that fails. */
function installPeers(say: (line: string) => void): string | undefined {
  if (isInstalled()) return undefined
  say('installing the peers into scripts/bench/peers')
  try {
    const args = ['ci', '--no-audit', '--no-fund', '--ignore-scripts']
    execFileSync('npm', args, { cwd: PEERS, stdio: 'pipe', timeout: INSTALL_MS })
    return undefined
  } catch (error) {
    return `npm ci in scripts/bench/peers failed: ${reasonOf(error)}`
  }
}

/** npm keeps a lock file of what is there; an older one than ours is of other versions. */
function isInstalled(): boolean {
  const changedAt = (path: string) => statSync(`${PEERS}${path}`, { throwIfNoEntry: false })?.mtimeMs ?? 0
  return changedAt('node_modules/.package-lock.json') >= changedAt('package-lock.json')
}

function reasonOf(error: unknown): string {
  const { stderr, code } = error as { readonly stderr?: Buffer; readonly code?: string }
  const lines = String(stderr ?? '').split('\n')
  return lines.find((line) => line.startsWith('npm error')) ?? code ?? 'for reasons it did not tell'
}

/** With an append-only file written out every second, as people run it who care: a crash may cost the last second. */
async function startRedis(rig: Rig): Promise<Store> {
  const port = await freePort()
  const dir = await makeDirectory(rig)
  const options = ['--bind', '127.0.0.1', '--port', String(port), '--dir', dir, '--save', '']
  const child = spawn(
    findProgram('redis-server') ?? '',
    [...options, '--appendonly', 'yes', '--appendfsync', 'everysec'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  rig.guard.watch(child)
  await untilSaid(child, 'Ready to accept connections')
  return {
    url: `redis://127.0.0.1:${port}`,
    watched: { name: 'redis', pid: child.pid ?? 0 },
    close: () => child.kill(),
  }
}

/** Line by line: a pipe may hand over the words in two pieces. */
async function untilSaid(child: ChildProcess, words: string): Promise<void> {
  if (child.stdout === null) throw new Error('the output of the program is not a pipe')
  const said = Promise.withResolvers<void>()
  child.once('exit', (code) => said.reject(new Error(`${child.spawnfile} ended with ${code}`)))
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line.includes(words)) said.resolve()
  })
  await said.promise
}

/** The processes of one queue for one turn: a producer, and as many workers as are wanted. */
export type PeerProcesses = {
  readonly watched: readonly Watched[]
  /** Has orders added; resolves when all of them are in the queue, with the moment it began. */
  add(first: number, count: number): Promise<bigint>
  close(): Promise<void>
}

export async function startPeer(
  rig: Rig,
  peer: Peer,
  options: { readonly url: string; readonly smtpUrl: string; readonly workers: number },
): Promise<PeerProcesses> {
  const { url, smtpUrl, workers } = options
  const producer = await startReady(rig, peer.file, ['producer', url, smtpUrl])
  const working: ChildProcess[] = []
  while (working.length < workers) working.push(await startReady(rig, peer.file, ['worker', url, smtpUrl]))
  return {
    watched: [
      { name: 'inserts', pid: producer.pid ?? 0 },
      ...working.map((child) => ({ name: 'sender', pid: child.pid ?? 0 })),
    ],
    add: async (first, count) => {
      const added = nextMessage<Extract<PeerReport, { kind: 'added' }>>(producer)
      producer.send({ first, count } satisfies PeerOrder)
      return BigInt((await added).startedAtNs)
    },
    close: async () => {
      for (const child of [producer, ...working]) {
        const ended = once(child, 'exit')
        child.disconnect()
        await ended
      }
    },
  }
}

async function startReady(rig: Rig, file: string, args: readonly string[]): Promise<ChildProcess> {
  const child = startChild(rig.guard, file, args)
  await nextMessage<PeerReport>(child)
  return child
}
