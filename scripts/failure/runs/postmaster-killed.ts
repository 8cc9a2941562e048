import { performCrashes } from '../postgres-crashes.ts'
import { failureRun } from '../run.ts'

/** The whole server dies by SIGKILL under load and is started again by its supervisor. */
export const postmasterKilled = failureRun({
  name: 'postmaster-killed',
  promise:
    'SIGKILL of Postgres loses no durable answer, what it takes of buffered mail is said, and every process goes on by itself',
  limitMinutes: 25,
  full: { messages: 15_000, bufferedPerS: 100, kills: 20, workers: 2 },
  short: { messages: 400, bufferedPerS: 100, kills: 1, workers: 1 },
  perform: (scene, scale) =>
    performCrashes(scene, scale, (server) => {
      process.kill(server.postmasterPid(), 'SIGKILL')
    }),
})
