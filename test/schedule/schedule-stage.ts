import { Client } from 'pg'
import { inTransaction } from '../../src/db/transaction.ts'
import { claimMessages } from '../../src/dispatch/queries.ts'
import { ensureQueues, within } from '../../src/queue/boss.ts'
import { dispatchQueue, jobPriority } from '../../src/queue/queues.ts'
import { releaseDue } from '../../src/schedule/scheduler.ts'
import { openIntake } from '../intake/intake-stage.ts'
import type { TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail } from '../support/service.ts'

const QUEUE = dispatchQueue('default', 'transactional')

/** What happens while a claim is under way. */
type ClaimHooks = { readonly afterFetch?: () => Promise<void>; readonly afterClaim?: () => Promise<void> }

/** The parts of scheduling over a database without any service: nothing happens unless the test says so. */
export async function openSchedule(database: TestDatabase) {
  const intake = await openIntake(database)
  const { db, boss } = intake
  await database.query("insert into mail.provider (name, transport) values ('default', 'inbox')")
  await ensureQueues(db)
  const [worker] = await database.query<{ number: number }>(
    "insert into mail.worker (name) values ('here:1') returning number",
  )

  /** A message handed in by SQL, moved from the door. */
  const accept = async (changes: Readonly<Record<string, unknown>> = {}): Promise<string> => {
    const [row] = await database.query<{ id: string }>(
      'insert into mail.outbox (message) values ($1) returning id',
      [JSON.stringify(orderMail(changes))],
    )
    await intake.move()
    return row?.id ?? ''
  }

  return {
    ...intake,
    accept,
    release: () => releaseDue(intake),
    /** A message that waits for a dispatcher, with its job. */
    queue: async (): Promise<string> => {
      const id = await accept()
      await database.query(
        "update mail.message set status = 'queued', provider = 'default', queued_at = now() where id = $1",
        [id],
      )
      await database.query("delete from pgboss.job where data -> 'ids' ? $1", [id])
      await boss.insert(QUEUE, [{ id, priority: jobPriority(3) }])
      return id
    },
    /** Its moment comes now. */
    makeDue: (id: string) =>
      database.query("update mail.scheduled set due_at = now() - interval '1 second' where message_id = $1", [
        id,
      ]),
    /** Claims as a dispatcher does: fetches jobs, claims their messages, drops the jobs of those it may not send, commits. */
    claim: (hooks: ClaimHooks = {}): Promise<string[]> =>
      inTransaction(db, async (trx) => {
        const jobs = await boss.fetch(QUEUE, { batchSize: 10, ...within(trx) })
        await hooks.afterFetch?.()
        const ids = jobs.map((job) => job.id)
        const claimed = await claimMessages(trx, ids, worker?.number ?? 0, 'default')
        await hooks.afterClaim?.()
        const idle = jobs.filter((job) => !claimed.some(({ id }) => id === job.id))
        if (idle.length > 0) await boss.deleteJob(QUEUE, idle, within(trx))
        return claimed.map(({ id }) => id)
      }),
    jobs: async (id: string): Promise<string[]> => {
      const rows = await database.query<{ name: string }>(
        "select name from pgboss.job where id = $1 or data -> 'ids' ? $1::text order by name",
        [id],
      )
      return rows.map(({ name }) => name)
    },
  }
}

export type Session = {
  say(statement: string, values?: unknown[]): Promise<string | null>
  /** Resolves when the statement under way waits for another session. */
  untilItWaits(): Promise<unknown>
}

/** A connection of its own, as an operator has in psql: `say` answers the one value a statement gives. */
export async function openSession(database: TestDatabase): Promise<Session> {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  database.beforeDrop(() => client.end())
  const {
    rows: [me],
  } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
  return {
    say: async (statement, values) => {
      const { rows } = await client.query<Record<string, string | null>>(statement, values)
      return Object.values(rows[0] ?? {})[0] ?? null
    },
    untilItWaits: () =>
      eventually('the session waits for another', async () => {
        const rows = await database.query('select from unnest(pg_blocking_pids($1::integer))', [me?.pid])
        return rows.length > 0
      }),
  }
}
