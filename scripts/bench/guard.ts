import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** What must not outlive the benchmark. */
export type GuardMessage =
  | { readonly kind: 'process'; readonly pid: number }
  | { readonly kind: 'data'; readonly dir: string }

/**
 * A process that outlives this one by a moment: when the benchmark ends, in whatever way (done, failed,
 * interrupted, SIGKILL), it ends every process it was told of, the Postgres of the data directory too,
 * and removes that directory.
 */
export class Guard {
  readonly #child: ChildProcess

  constructor() {
    const path = fileURLToPath(new URL('./guard-process.ts', import.meta.url))
    this.#child = spawn(process.execPath, [path], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      detached: true,
    })
    // Neither the child nor the channel keeps this process alive.
    this.#child.unref()
    this.#child.channel?.unref()
  }

  watch(child: ChildProcess): void {
    if (child.pid !== undefined) this.#tell({ kind: 'process', pid: child.pid })
  }

  watchData(dir: string): void {
    this.#tell({ kind: 'data', dir })
  }

  #tell(message: GuardMessage): void {
    this.#child.send(message)
  }
}
