import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { eventually } from './eventually.ts'

/** The demo as a process of its own, which waits until somebody has repaired what goes wrong in it. */
export type Demo = {
  readonly url: string
  readonly key: string
  readonly databaseUrl: string
  /** Has the sale begin. */
  begin(): void
  /** Waits until it has said this. */
  says(words: string): Promise<void>
  /** Waits for its end; all it said, and its exit code. */
  ended(): Promise<{ readonly said: string; readonly code: number | null }>
}

const MAIN = fileURLToPath(new URL('../../scripts/demo/main.ts', import.meta.url))
const PATIENCE_MS = 180_000

/** The orders take minutes at this rate: whatever a test looks at is still there when it looks. */
const MAILS_PER_S = 20

export async function startDemo(t: TestContext, orders: number): Promise<Demo> {
  const options = ['--repair', 'you', '--orders', `${orders}`, '--rate', `${MAILS_PER_S}`, '--port', '0']
  const child = spawn(process.execPath, [MAIN, ...options], { stdio: ['pipe', 'pipe', 'pipe'] })
  const exit = once(child, 'close')
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk
    })
  }
  t.after(async () => {
    if (child.exitCode === null) child.kill('SIGTERM')
    await exit
    if (child.exitCode !== 0) t.diagnostic(said)
  })
  const find = <T>(what: string, look: () => T | null | false) =>
    eventually(
      `the demo says ${what}`,
      async () => {
        const found = look()
        if (!found && child.exitCode !== null) throw new Error(`the demo ended:\n${said}`)
        return found
      },
      PATIENCE_MS,
    )
  const [, url = ''] = await find('where the dashboard is', () => /dashboard +(http:\S+)\//.exec(said))
  const [, key = ''] = await find('the key', () => /API key +(\S+)/.exec(said))
  const [, databaseUrl = ''] = await find('where the database is', () => /psql '([^']+)'/.exec(said))
  return {
    url,
    key,
    databaseUrl,
    begin: () => {
      child.stdin.end('\n')
    },
    says: async (words) => {
      await find(words, () => said.includes(words))
    },
    ended: async () => {
      await exit
      return { said, code: child.exitCode }
    },
  }
}
