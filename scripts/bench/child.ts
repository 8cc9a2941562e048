import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Guard } from './guard.ts'

/** As `npm start` has it (docs/production.md on memory): every process gets the same, whoever is compared. */
export const NODE_OPTIONS = ['--max-semi-space-size=8']

/** Starts one of the benchmark's own processes. Each ends by itself when its channel to this one breaks. */
export function startChild(guard: Guard, file: string, args: readonly string[] = []): ChildProcess {
  const path = fileURLToPath(new URL(file, import.meta.url))
  const child = spawn(process.execPath, [...NODE_OPTIONS, path, ...args], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  guard.watch(child)
  return child
}

/** The next message of a child; rejects when it ends instead. */
export function nextMessage<T>(child: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    const leave = () => {
      child.off('message', hear)
      child.off('exit', give)
    }
    const hear = (message: unknown) => {
      leave()
      resolve(message as T)
    }
    const give = (code: number | null) => {
      leave()
      reject(new Error(`${child.spawnargs.slice(1).join(' ')} ended with ${code}`))
    }
    child.on('message', hear)
    child.on('exit', give)
  })
}
