/** Connections that end under the hands of those who use them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { insertMany, untilAll } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

/** A process that never comes to the point must not hang the suite. */
const LIMIT = { timeout: 90_000 }

test(
  'a connection that dies between two statements costs its transaction, and not the process',
  LIMIT,
  async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const transaction = service.db.transaction().execute(async (trx) => {
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(trx)
      await database.query('select pg_terminate_backend($1, 5000)', [rows[0]?.pid])
      // Its last words reach us in a turn of the event loop of their own.
      await eventually('the connection is known to be dead', async () => {
        const found = await database.query('select from pg_stat_activity where pid = $1', [rows[0]?.pid])
        return found.length === 0
      })
      await sql`select 1`.execute(trx)
    })
    await assert.rejects(transaction)
    const ids = await insertMany(database, 3)
    await untilAll(database, ids.length, 'sent')
  },
)
