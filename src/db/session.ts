import { hostname } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { Client } from 'pg'
import type { Log } from '../log.ts'
import { BELL_CHANNEL } from '../queue/bells.ts'
import { VERSION } from '../version.ts'
import { connectionSettings } from './connection-settings.ts'

/** First key of the two-part advisory locks that workers hold; the second is `mail.worker.lock_key`. */
export const WORKER_LOCK = 0x534c4345

const HEARTBEAT_MS = 1_000
/** How often the register is told; the beats between only ask. */
const SEEN_EACH_MS = 5_000
/**
 * For so long after a beat nobody can have taken over what this worker claimed: rescuers wait three seconds from
 * the moment one finds the lock free (GRACE_S in upkeep/queries.ts), and at the beat it was ours.
 */
const SAFE_MS = 2_000
const QUERY_TIMEOUT_MS = 5_000
const RECONNECT_PAUSE_MS = 250
/** The server takes the worker for dead, even when its connection looks alive to it. */
const SILENCE_LIMIT_MS = 15_000
const APPLICATION_NAME = 'sluice worker'

/** Its commit does not wait for the disk: a beat that a stalled disk holds up would cost the session, and tells nothing durable. */
const SEE = `with relaxed as materialized (select set_config('synchronous_commit', 'off', true))
  update mail.worker set seen_at = now() from relaxed where number = $1`
const LOOK = 'select from mail.worker where number = $1'

export type SessionOptions = {
  readonly url: string
  readonly role: string | undefined
  readonly log: Log
  readonly onBell: (payload: string) => void
  /** Unset: 1 s. */
  readonly heartbeatMs?: number
}

/**
 * The one connection a worker keeps for itself: it holds an advisory lock, which the server frees the moment the
 * process or its connection dies, and it listens for bells. Anybody who can connect may take advisory locks: so the
 * key is random, and the lock says something only while the session named in the register holds it.
 *
 * When the connection breaks and the process lives (Postgres restarted), the worker comes back under the
 * same number as long as its row is there, so that its sends in flight stay its own. If a rescuer was
 * quicker, the row is gone: the worker registers anew, and what it still settles under the old number
 * finds nothing. Before a mail is handed over, `holds` says whether its claim can still be ours.
 */
export class WorkerSession {
  readonly #options: SessionOptions
  #client: Client | undefined
  #number: number | undefined
  #stopping = false
  #heartbeat: NodeJS.Timeout | undefined
  #reconnecting: Promise<void> | undefined
  #beating: Promise<void> | undefined
  /** When the latest statement was sent that was answered under this session's lock, by performance.now(). */
  #heldAt = Number.NEGATIVE_INFINITY
  /** The same by the clock on the wall. */
  #heldAtTime = Number.NEGATIVE_INFINITY
  #seenAt = Number.NEGATIVE_INFINITY

  private constructor(options: SessionOptions) {
    this.#options = options
  }

  static async open(options: SessionOptions): Promise<WorkerSession> {
    const session = new WorkerSession(options)
    await session.#connect()
    session.#heartbeat = setInterval(() => void session.#beat(), options.heartbeatMs ?? HEARTBEAT_MS)
    return session
  }

  /** This worker's number; it changes only when another process took over what it held. */
  get number(): number {
    if (this.#number === undefined) throw new Error('the worker session is not open')
    return this.#number
  }

  /**
   * Whether what was claimed under this number cannot have been given to others yet. True at once while the latest
   * beat is young; otherwise the server is asked, as after a sleep (a stopped process, a suspended machine, a link
   * that was cut). False when it does not answer: then nobody here can know.
   */
  holds(number: number): boolean | Promise<boolean> {
    return this.#isSafe(number) || this.#ask(number)
  }

  #isSafe(number: number): boolean {
    // The steady clock stands still while a machine is suspended, and the one on the wall may be set: the longer time counts.
    const ageMs = Math.max(performance.now() - this.#heldAt, Date.now() - this.#heldAtTime)
    return number === this.#number && ageMs < SAFE_MS
  }

  async #ask(number: number): Promise<boolean> {
    // One that is under way may have been sent before the sleep.
    await this.#beating
    if (!this.#isSafe(number)) await this.#beat()
    return this.#isSafe(number)
  }

  /**
   * Leaves the register, when everything this worker claimed is settled. Otherwise its row stays, and tells the
   * others what to rescue.
   */
  async close(isSettled: boolean): Promise<void> {
    this.#stopping = true
    clearInterval(this.#heartbeat)
    await this.#reconnecting
    const client = this.#client
    this.#client = undefined
    if (client === undefined) return
    try {
      if (isSettled) {
        await client.query(
          'delete from mail.worker where number = $1 and not exists (select from mail.claim where worker = $1)',
          [this.#number],
        )
      }
    } catch (error) {
      this.#options.log.debug({ error }, 'could not leave the register; the lock says enough')
    }
    await client.end()
  }

  async #connect(): Promise<void> {
    const { url, role } = this.#options
    const client = new Client({
      ...connectionSettings(url, role, { idle_session_timeout: SILENCE_LIMIT_MS }),
      application_name: APPLICATION_NAME,
      connectionTimeoutMillis: QUERY_TIMEOUT_MS,
      query_timeout: QUERY_TIMEOUT_MS,
    })
    client.on('error', () => this.#lost(client))
    client.on('end', () => this.#lost(client))
    client.on('notification', ({ payload }) => this.#options.onBell(payload ?? ''))
    try {
      await client.connect()
      await this.#register(client)
      await client.query(`listen ${BELL_CHANNEL}`)
    } catch (error) {
      drop(client)
      throw error
    }
    this.#client = client
  }

  #note(sentAt: number, isSeen: boolean): void {
    this.#heldAt = sentAt
    this.#heldAtTime = Date.now() - (performance.now() - sentAt)
    if (isSeen) this.#seenAt = sentAt
  }

  async #register(client: Client): Promise<void> {
    if (this.#number !== undefined && (await this.#resume(client, this.#number))) return
    const row = await lockedRow(
      client,
      'insert into mail.worker (name, version, backend_pid) values ($2, $3, pg_backend_pid())',
      [`${hostname()}:${process.pid}`, VERSION],
    )
    if (row === undefined) throw new Error('no worker number was given')
    this.#number = row.number
    this.#note(performance.now(), true)
    this.#options.log.info({ worker: row.number }, 'worker registered')
  }

  /**
   * True when the old number is ours again, under a key of its own: the old session, if it has not ended yet, says
   * nothing any more. False when the row is gone; a rescuer who is just deleting it is waited for.
   */
  async #resume(client: Client, number: number): Promise<boolean> {
    const sentAt = performance.now()
    const row = await lockedRow(
      client,
      `update mail.worker
       set seen_at = now(), lock_key = default, backend_pid = pg_backend_pid(), free_since = null
       where number = $2`,
      [number],
    )
    if (row !== undefined) {
      this.#note(sentAt, true)
      return true
    }
    this.#options.log.warn({ worker: number }, 'this worker was taken for dead; registering anew')
    return false
  }

  #beat(): Promise<void> {
    this.#beating ??= this.#askServer().finally(() => {
      this.#beating = undefined
    })
    return this.#beating
  }

  async #askServer(): Promise<void> {
    const client = this.#client
    if (client === undefined) return
    const sentAt = performance.now()
    const isDue = sentAt - this.#seenAt >= SEEN_EACH_MS
    try {
      const { rowCount } = await client.query(isDue ? SEE : LOOK, [this.#number])
      if (rowCount === 1 && this.#client === client) this.#note(sentAt, isDue)
      // The row is gone and the connection is not: without a new number this worker would never claim again.
      else this.#lost(client)
    } catch {
      // A connection that does not answer in time is as good as broken.
      this.#lost(client)
    }
  }

  #lost(client: Client): void {
    if (this.#client !== client || this.#stopping) return
    this.#client = undefined
    drop(client)
    this.#options.log.warn({ worker: this.#number }, 'worker session lost, reconnecting')
    this.#reconnecting ??= this.#reconnect().finally(() => {
      this.#reconnecting = undefined
    })
  }

  async #reconnect(): Promise<void> {
    while (!this.#stopping && this.#client === undefined) {
      try {
        await this.#connect()
        this.#options.log.info({ worker: this.#number }, 'worker session is back')
      } catch (error) {
        this.#options.log.debug({ error }, 'worker session not back yet')
        await delay(RECONNECT_PAUSE_MS)
      }
    }
  }
}

/** Without a goodbye: it would wait for an answer that may never come. */
function drop(client: Client): void {
  client.connection.stream.destroy()
}

type Registered = { readonly number: number; readonly lock_key: number; readonly locked: boolean }

/**
 * Writes this worker's row (values from $2 on), and takes its lock before anybody sees the row: nobody finds the lock of a
 * living worker free, and notes since when.
 */
async function lockedRow(
  client: Client,
  write: string,
  values: readonly unknown[],
): Promise<Registered | undefined> {
  const { rows } = await client.query<Registered>(
    `with written as (${write} returning number, lock_key)
     select number, lock_key, pg_try_advisory_lock($1, lock_key) as locked from written`,
    [WORKER_LOCK, ...values],
  )
  // One of four thousand million: the next attempt has another.
  if (rows[0]?.locked === false) throw new Error('somebody else holds the lock of this worker')
  return rows[0]
}
