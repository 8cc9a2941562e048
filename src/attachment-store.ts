import { sql } from 'kysely'
import type { Database } from './db/pool.ts'
import type { Transaction } from './db/transaction.ts'
import type { AttachmentContent } from './message/message-attachments.ts'

/** Of the bytes in one statement: it holds them once more on their way. */
const STATEMENT_BYTES = 16 * 1_024 * 1_024

/**
 * Stores these bytes, each once. A message that names them should come within a day, or in the same transaction:
 * then `isUsedAtOnce` spares noting when they were given. What is known and fresh is not sent again, nor locked, as
 * thousands of messages may carry the same logo at once, and a writer's transaction may stay open for long.
 */
export async function keepAttachments(
  db: Database | Transaction,
  contents: readonly AttachmentContent[],
  { isUsedAtOnce = false }: { isUsedAtOnce?: boolean } = {},
): Promise<void> {
  if (contents.length === 0) return
  const byHash = new Map(contents.map((content) => [content.sha256, content]))
  const { rows } = await sql<{ sha256: string }>`/* attachment.find_fresh */
    select encode(sha256, 'hex') as sha256
    from mail.attachment
    where sha256 = any (array(select decode(given, 'hex') from unnest(${[...byHash.keys()]}::text[]) as given))
      and (${isUsedAtOnce}::boolean or mail.is_fresh_attachment(sha256, given_at))
  `.execute(db)
  for (const { sha256 } of rows) byHash.delete(sha256)
  // In one order everywhere, so that two transactions with the same new bytes cannot wait for each other.
  const missing = [...byHash.values()].toSorted((a, b) => (a.sha256 < b.sha256 ? -1 : 1))
  for (const slice of slicesOf(missing)) await insertContents(db, slice)
}

async function insertContents(
  db: Database | Transaction,
  contents: readonly AttachmentContent[],
): Promise<void> {
  const values = contents.map(
    ({ sha256, bytes }) => sql`(decode(${sha256}::text, 'hex'), ${bytes.length}::integer, ${bytes}::bytea)`,
  )
  await sql`/* attachment.keep */
    insert into mail.attachment (sha256, size, content)
    values ${sql.join(values)}
    on conflict (sha256) do update set given_at = now()
  `.execute(db)
}

function slicesOf(contents: readonly AttachmentContent[]): AttachmentContent[][] {
  const slices: AttachmentContent[][] = []
  let bytes = STATEMENT_BYTES
  for (const content of contents) {
    bytes += content.bytes.length
    if (bytes > STATEMENT_BYTES) {
      slices.push([])
      bytes = content.bytes.length
    }
    slices.at(-1)?.push(content)
  }
  return slices
}

/** That a message carries these bytes. */
export type AttachmentUse = {
  readonly messageId: string
  readonly stream: string
  readonly sha256: string
}

/**
 * Notes on which days and in which streams these bytes are used, so that they stay as long as that content does; returns the sizes of
 * those that are stored, by their hash.
 */
export async function useAttachments(
  trx: Transaction,
  uses: readonly AttachmentUse[],
): Promise<Map<string, number>> {
  const sizes = await noteUses(trx, uses)
  const missing = [...new Set(uses.map(({ sha256 }) => sha256))].filter((sha256) => !sizes.has(sha256))
  if (missing.length === 0 || !(await adoptAttachments(trx, missing))) return sizes
  return noteUses(trx, uses)
}

/** From what SQL writers handed in; true when some of it was there. */
async function adoptAttachments(trx: Transaction, hashes: readonly string[]): Promise<boolean> {
  const { rows } = await sql<{ adopted: number }>`/* attachment.adopt */
    select mail.adopt_attachments(array(select decode(given, 'hex') from unnest(${hashes}::text[]) as given)) as adopted
  `.execute(trx)
  return (rows[0]?.adopted ?? 0) > 0
}

async function noteUses(trx: Transaction, uses: readonly AttachmentUse[]): Promise<Map<string, number>> {
  const { rows } = await sql<{ sha256: string; size: number }>`/* attachment.use */
    with used as materialized (
      select distinct decode(sha256, 'hex') as sha256, mail.uuid7_day("messageId") as day, stream
      from json_to_recordset(${JSON.stringify(uses)}::json) as given ("messageId" uuid, stream text, sha256 text)
    ), known as materialized (
      select a.sha256, a.size from mail.attachment a where a.sha256 = any (array(select sha256 from used))
    ), noted as (
      insert into mail.attachment_use (sha256, day, stream)
      select used.sha256, used.day, used.stream from used join known using (sha256)
      order by used.sha256, used.day, used.stream -- as in keepAttachments
      on conflict do nothing
    )
    select encode(sha256, 'hex') as sha256, size from known
  `.execute(trx)
  return new Map(rows.map((row) => [row.sha256, row.size]))
}
