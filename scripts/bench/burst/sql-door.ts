import { Client, DatabaseError } from 'pg'
import { type Answer, BROKEN, type Door } from './door.ts'

const COMMITTED: Answer = { status: 200, retryAfterS: undefined, isDurable: true }
const REFUSED: Answer = { status: 500, retryAfterS: undefined, isDurable: false }

/** A session that inserts, each mail in its own transaction; opened again when it broke. */
export function openSqlDoor(url: string): Door {
  let client: Promise<Client> | undefined
  const connect = async () => {
    const opened = new Client({ connectionString: url })
    opened.on('error', () => undefined)
    await opened.connect()
    return opened
  }
  return async ({ text, key }) => {
    client ??= connect()
    try {
      const name = 'enqueue'
      const statement =
        '/* bench.enqueue */ insert into mail.outbox (message, idempotency_key) values ($1, $2)'
      await (await client).query({ name, text: statement, values: [text, key] })
      return COMMITTED
    } catch (error) {
      if (error instanceof DatabaseError) return REFUSED
      client = undefined
      return BROKEN
    }
  }
}
