import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import type { Scene } from './run.ts'

/** A cable between this machine's network and a namespace; what is sent while it is cut is lost, and nobody is told. */
export type Link = {
  /** On this side. */
  readonly near: string
  readonly far: string
  cut(): void
  heal(): void
}

export type LinkedNamespace = {
  /** What a command has to be started with, to run inside. */
  readonly prefix: readonly string[]
  /** What its processes speak with Postgres over, and what they speak with everybody else over. */
  readonly database: Link
  readonly outside: Link
}

/** What this machine lacks for it, as a sentence. */
export function missingForNamespaces(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root may make network namespaces'
  const { status } = spawnSync('unshare', [
    ...['--net', 'ip', 'link', 'add', 'sluice-a', 'type', 'veth', 'peer', 'name', 'sluice-b'],
  ])
  return status === 0
    ? undefined
    : 'the commands unshare and ip (iproute2) must be there, and allowed to make a veth pair'
}

/**
 * A network namespace with two links to this machine. It lives as long as a process that sleeps in it, and so do the
 * links: whatever ends the run ends them.
 */
export async function openLinkedNamespace(scene: Scene): Promise<LinkedNamespace> {
  const holder = spawn('unshare', ['--net', 'sh', '-c', 'echo inside; exec sleep infinity'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  scene.guard?.watch(holder)
  scene.after(async () => {
    const ended = once(holder, 'exit')
    holder.kill('SIGKILL')
    await ended
  })
  await once(holder.stdout, 'data')
  const prefix = ['nsenter', `--net=/proc/${holder.pid}/ns/net`]
  run(...prefix, 'ip', 'link', 'set', 'lo', 'up')
  return { prefix, database: connect(holder, prefix, 0), outside: connect(holder, prefix, 1) }
}

/** From the block for tests of networks, RFC 2544: nobody's own addresses. */
function connect({ pid = 0 }: ChildProcess, prefix: readonly string[], nth: number): Link {
  const [high, low] = [Math.floor(pid / 64) % 256, (pid % 64) * 4 + nth * 2]
  const block = `198.${18 + (Math.floor(pid / 16_384) % 2)}.${high}`
  const [near, far] = [`${block}.${low}`, `${block}.${low + 1}`]
  const [nearName, farName] = [`sl${pid}n${nth}`, `sl${pid}f${nth}`]
  run('ip', 'link', 'add', nearName, 'type', 'veth', 'peer', 'name', farName, 'netns', String(pid))
  run('ip', 'address', 'add', `${near}/31`, 'dev', nearName)
  run('ip', 'link', 'set', nearName, 'up')
  run(...prefix, 'ip', 'address', 'add', `${far}/31`, 'dev', farName)
  run(...prefix, 'ip', 'link', 'set', farName, 'up')
  return {
    near,
    far,
    // The far end: our own side goes on believing in its address, as a host does whose cable was pulled somewhere else.
    cut: () => run(...prefix, 'ip', 'link', 'set', farName, 'down'),
    heal: () => run(...prefix, 'ip', 'link', 'set', farName, 'up'),
  }
}

function run(...words: string[]): void {
  const [command = '', ...rest] = words
  const { status, stderr } = spawnSync(command, rest, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${words.join(' ')}: ${stderr}`)
}
