import { Client } from 'pg'
import type { Log } from '../log.ts'
import { pooledSettings } from './connection-settings.ts'

/**
 * A connection whose other end is gone while both sides take it for alive: a firewall forgot it, a balancer in between
 * hangs. Keepalives show a link that is cut, and not this. So when a statement has been without an answer for a while, the
 * server is asked over another connection whether it is still at work on it. That tells a slow statement, which is waited
 * for, from an answer that will never come.
 */

const CONNECT_MS = 3_000
const ANSWER_MS = 3_000
/** Connections of the same age as ours, to about this: a process id may be another's by now. */
const SAME_AGE_S = 5

/** A server process, as the connection knows it: its id, and for how many seconds we have been connected to it. */
export type Backend = { readonly pid: number; readonly ageS: number }

export type SilenceWatch = {
  /** Whether the server is at work on a statement of this connection; undefined when it cannot be asked. */
  isAtWork(backend: Backend): Promise<boolean | undefined>
  /** Ends a server process that nobody hears any more, and with it its transaction and its locks. */
  end(backend: Backend): Promise<void>
}

export function watchSilence(url: string, log: Log): SilenceWatch {
  let asking: Promise<ServerProcess[]> | undefined
  return {
    // One look serves all that are in doubt at the same time.
    async isAtWork({ pid, ageS }) {
      asking ??= readProcesses(url).finally(() => {
        asking = undefined
      })
      try {
        const processes = await asking
        return processes.some(
          (each) => each.pid === pid && Math.abs(each.age_s - ageS) < SAME_AGE_S && each.is_at_work,
        )
      } catch (error) {
        log.debug({ error }, 'the server cannot be asked about a connection without an answer')
        return undefined
      }
    },
    async end({ pid, ageS }) {
      try {
        await aside(url, (client) => client.query(END, [pid, ageS]))
        log.warn({ pid }, 'a connection to the database had gone silent; its server process was ended')
      } catch (error) {
        log.debug({ pid, error }, 'could not end the server process of a silent connection; its limits will')
      }
    },
  }
}

type ServerProcess = { readonly pid: number; readonly age_s: number; readonly is_at_work: boolean }

/** One that waits for its client has either answered already or not heard the whole question. */
function readProcesses(url: string): Promise<ServerProcess[]> {
  return aside(url, async (client) => {
    const { rows } = await client.query<ServerProcess>(`/* silence.look */
      select
        pid, extract(epoch from clock_timestamp() - backend_start)::double precision as age_s,
        state = 'active' and wait_event_type is distinct from 'Client' as is_at_work
      from pg_stat_activity
      where usename = session_user and datname = current_database()`)
    return rows
  })
}

const END = `/* silence.end */
  select pg_terminate_backend(pid)
  from pg_stat_activity
  where pid = $1 and usename = session_user and datname = current_database()
    and abs(extract(epoch from clock_timestamp() - backend_start) - $2::double precision) < ${SAME_AGE_S}`

/** As the user of the URL, whatever role the service works as: a user may see and end what is their own. */
export async function aside<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({
    ...pooledSettings(url),
    application_name: 'sluice aside',
    connectionTimeoutMillis: CONNECT_MS,
    query_timeout: ANSWER_MS,
  })
  // The statement under way fails by itself.
  client.on('error', () => client.connection.stream.destroy())
  try {
    await client.connect()
    return await work(client)
  } finally {
    // No goodbye: on a connection without an answer it would wait for one.
    client.connection.stream.destroy()
  }
}
