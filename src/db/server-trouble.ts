import type { Log } from '../log.ts'
import { Seldom } from '../seldom.ts'
import { sqlState } from './sqlstate.ts'

/** What the server says of the machine it runs on, as a person would have to know it; by SQLSTATE (manual, appendix A). */
const TROUBLES: Readonly<Record<string, string>> = {
  '53100':
    'Postgres has no room on its disk. Make room on it or enlarge it: until then mail is refused with 503, what was sent is kept in memory, and all goes on by itself afterwards',
  '53200':
    'Postgres is out of memory. Lower what it may use (shared_buffers, work_mem, max_connections) or give its machine more',
  '53300':
    'Postgres takes no more connections. Raise max_connections, start fewer processes, or lower SLUICE_DATABASE_CONNECTIONS',
  '58030':
    'Postgres cannot read or write its disk (I/O error). Its own log says which file; look at the disk before anything else',
}

export type NoteFault = (error: unknown) => void

/** Whatever fails for it, and however often, the log says once a minute what is wrong with the server. */
export function watchServerTrouble(log: Log): NoteFault {
  const seldom = new Seldom(log)
  return (error) => {
    const code = sqlState(error)
    const message = code === undefined ? undefined : TROUBLES[code]
    if (code !== undefined && message !== undefined) seldom.tell('error', code, { code }, message)
  }
}
