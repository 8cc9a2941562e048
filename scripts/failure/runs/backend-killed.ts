import { performCrashes } from '../postgres-crashes.ts'
import { failureRun } from '../run.ts'

/** One server process dies by SIGKILL, as by the OOM killer: Postgres ends all the others and recovers as after a crash. */
export const backendKilled = failureRun({
  name: 'backend-killed',
  promise:
    'SIGKILL of one server process, as by the OOM killer, loses no durable answer, and what it takes of buffered mail is said',
  limitMinutes: 20,
  full: { messages: 15_000, bufferedPerS: 100, kills: 20, workers: 2 },
  short: { messages: 300, bufferedPerS: 100, kills: 1, workers: 1 },
  perform: (scene, scale) =>
    performCrashes(scene, scale, async (server) => {
      const [backend] = await server.query<{ pid: number }>(
        `select pid from pg_stat_activity where application_name = 'sluice' order by random() limit 1`,
      )
      if (backend !== undefined) process.kill(backend.pid, 'SIGKILL')
    }),
})
