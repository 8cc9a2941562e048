import type { Client } from 'pg'

const ROWS = 1_000

/** Into `mail.outbox`, as an application does in a batch job: some rows a statement, each statement its own commit. */
export async function insertMails(
  client: Client,
  count: number,
  messageOf: (n: number) => string,
  rowsAtOnce = ROWS,
): Promise<void> {
  for (let first = 0; first < count; first += rowsAtOnce) {
    const rows = Math.min(rowsAtOnce, count - first)
    const messages = Array.from({ length: rows }, (_, index) => messageOf(first + index))
    await client.query({
      name: 'insert_mails',
      text: '/* bench.insert */ insert into mail.outbox (message) select m::json from unnest($1::text[]) m',
      values: [messages],
    })
  }
}
