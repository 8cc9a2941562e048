/** See guard.ts. Runs detached, hears nothing of a Ctrl-C, and acts when its channel to the benchmark breaks. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { startOf } from '../../src/db/embedded-owner.ts'
import { adoptPostmaster, findPostmaster } from '../../src/db/embedded-postmaster.ts'
import type { GuardMessage } from './guard.ts'

const processes: { pid: number; startedAt: string | undefined }[] = []
const directories: string[] = []

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined)
process.on('message', (message: GuardMessage) => {
  // With its start time: by the time it matters the number may be another process's.
  if (message.kind === 'process') processes.push({ pid: message.pid, startedAt: startOf(message.pid) })
  else directories.push(message.dir)
})
process.on('disconnect', cleanUp)

async function cleanUp(): Promise<void> {
  for (const { pid, startedAt } of processes) {
    if (startedAt !== undefined && startOf(pid) === startedAt) process.kill(pid, 'SIGKILL')
  }
  for (const dir of directories) {
    await stopPostgres(dir)
    await rm(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
  }
  process.exit(0)
}

async function stopPostgres(dir: string): Promise<void> {
  const running = findPostmaster(join(dir, 'cluster'))
  if (running === undefined) return
  const postmaster = adoptPostmaster(running.pid)
  // At once and without writing anything: the data goes next.
  process.kill(running.pid, 'SIGQUIT')
  const keepAlive = setInterval(() => undefined, 1_000)
  await postmaster.ended
  clearInterval(keepAlive)
}
