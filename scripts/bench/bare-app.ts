import { nextMessage, startChild } from './child.ts'
import type { Watched } from './cpu.ts'
import type { Guard } from './guard.ts'

/** What it does with a mail before it answers: see bare-app-process.ts. */
export type BareAppTask = 'send' | 'insert' | 'answer'
export type BareAppReport = { readonly port: number }

export type BareApp = {
  readonly url: string
  readonly watched: Watched
  close(): void
}

/** An application that takes `POST /emails` and has no queue. `target` is the SMTP URL to send to, or the database to insert into. */
export async function startBareApp(guard: Guard, task: BareAppTask, target: string): Promise<BareApp> {
  const child = startChild(guard, './bare-app-process.ts', [task, target])
  const { port } = await nextMessage<BareAppReport>(child)
  return {
    url: `http://127.0.0.1:${port}`,
    watched: { name: 'server', pid: child.pid ?? 0 },
    close: () => child.disconnect(),
  }
}
