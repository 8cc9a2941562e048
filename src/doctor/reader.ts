import type { Client, QueryResultRow } from 'pg'

/** Past this a question is given up; nothing that is asked here takes more than moments on a healthy database. */
const STATEMENT_MS = 5_000

/** Asks a database and changes nothing in it, whatever the statement: the server itself would refuse. */
export type Reader = {
  ask<Row extends QueryResultRow>(text: string, values?: readonly unknown[]): Promise<Row[]>
}

/**
 * Each question is a read-only transaction of its own, one after the other. Its settings end with it, so a pooler may
 * stand in between.
 */
export function createReader(client: Client): Reader {
  let last: Promise<unknown> = Promise.resolve()
  const askNow = async <Row extends QueryResultRow>(text: string, values: readonly unknown[]) => {
    await client.query(`begin read only; set local statement_timeout = ${STATEMENT_MS}`)
    try {
      return (await client.query<Row>(text, [...values])).rows
    } finally {
      await client.query('rollback')
    }
  }
  return {
    ask: <Row extends QueryResultRow>(text: string, values: readonly unknown[] = []) => {
      const answer = last.then(() => askNow<Row>(text, values))
      // The next question does not care how this one ended.
      last = answer.catch(() => undefined)
      return answer
    },
  }
}
