import { Client, DatabaseError } from 'pg'
import { type Answer, BROKEN, type Door } from './door.ts'

const STATEMENTS = {
  outbox: '/* bench.outbox */ insert into mail.outbox (message, idempotency_key) values ($1, $2)',
  intake: '/* bench.intake */ insert into mail.intake (message, idempotency_key) values ($1, $2)',
  send: '/* bench.send */ select mail.send($1, $2)',
} as const
export type SqlDoor = keyof typeof STATEMENTS

const REFUSED: Answer = { status: 500, retryAfterS: undefined, isDurable: false }

/** A session that hands in each mail in its own transaction, by a prepared statement; opened again when it broke. */
export function openSqlDoor(url: string, door: SqlDoor): Door {
  const committed: Answer = { status: 200, retryAfterS: undefined, isDurable: door !== 'intake' }
  let client: Promise<Client> | undefined
  const connect = async () => {
    const opened = new Client({ connectionString: url })
    opened.on('error', () => undefined)
    await opened.connect()
    return opened
  }
  return {
    handIn: async ({ text, key }) => {
      client ??= connect()
      try {
        await (await client).query({ name: door, text: STATEMENTS[door], values: [text, key ?? null] })
        return committed
      } catch (error) {
        if (error instanceof DatabaseError) return REFUSED
        client = undefined
        return BROKEN
      }
    },
    close: () => void client?.then((opened) => opened.end()),
  }
}
