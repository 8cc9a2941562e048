import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'

/** Why a test with promtool cannot run here; undefined when it can. */
export function promtoolObstacle(): string | undefined {
  const isThere = spawnSync('promtool', ['--version']).status === 0
  return isThere ? undefined : 'needs promtool, of the Debian package prometheus'
}

/** Rejects with what it printed unless it is content. */
export async function promtool(args: readonly string[], input = ''): Promise<string> {
  const child = spawn('promtool', args, { stdio: ['pipe', 'pipe', 'pipe'] })
  child.stdin.end(input)
  const [printed, complaints] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ])
  if (child.exitCode !== 0) throw new Error(`promtool ${args.join(' ')}\n${printed}${complaints}`)
  return printed
}
