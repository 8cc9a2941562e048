import { subscribe } from 'node:diagnostics_channel'
import { CRASH_CHANNEL } from '../../src/crash-point.ts'

/** Loaded before a service (`--import die-at.ts?point=<name>`): the process is killed when it first reaches that point. */
const point = new URL(import.meta.url).searchParams.get('point')

subscribe(CRASH_CHANNEL, (reached) => {
  if (reached === point) process.kill(process.pid, 'SIGKILL')
})
