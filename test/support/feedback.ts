import { type Database, openPool } from '../../src/db/pool.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { applyFeedback } from '../../src/feedback/apply.ts'
import type { FeedbackEvent } from '../../src/feedback/event.ts'
import { createLog } from '../../src/log.ts'
import type { TestDatabase } from './database.ts'

/** A pool of its own over the test's database, closed before that is dropped. */
export function openTestPool(database: TestDatabase, maxConnections = 4): Database {
  const { db, close } = openPool({
    url: database.url,
    maxConnections,
    role: undefined,
    log: createLog('silent'),
  })
  database.beforeDrop(close)
  return db
}

export type StoredMessage = {
  readonly to?: readonly string[]
  readonly cc?: readonly string[]
  readonly bcc?: readonly string[]
  readonly status?: string
  readonly stream?: string
  readonly attempts?: number
  readonly isPartlySettled?: boolean
}

/** Messages as they lie in the tables after a send, in one statement; returns their ids. */
export async function insertMessages(
  { query }: Pick<TestDatabase, 'query'>,
  messages: readonly StoredMessage[],
): Promise<string[]> {
  const rows = messages.map(
    ({
      to = ['ann@example.net'],
      cc = [],
      bcc = [],
      status = 'sent',
      stream,
      attempts,
      isPartlySettled,
    }) => ({
      status,
      stream: stream ?? 'transactional',
      attempts: attempts ?? 1,
      is_partly_settled: isPartlySettled ?? false,
      message: {
        from: { address: 'shop@example.com' },
        to: to.map((address) => ({ address })),
        cc: cc.map((address) => ({ address })),
        bcc: bcc.map((address) => ({ address })),
        reply_to: [],
        subject: 'Hello',
        text: 'Hi',
        headers: {},
        tags: [],
        metadata: {},
      },
    }),
  )
  const stored = await query<{ id: string }>(
    `with given as (
       select mail.uuid7() as id, nextval('mail.message_seq') as seq, place, value as row
       from json_array_elements($1::json) with ordinality as given (value, place)
     ), message as (
       insert into mail.message (id, seq, accepted_at, claimed_at, sent_at, priority, attempts, status, stream, provider, source, is_partly_settled)
       select id, seq, now(), now(), case row ->> 'status' when 'sent' then now() end, 5, (row ->> 'attempts')::smallint,
         row ->> 'status', row ->> 'stream', 'default', 'test', (row ->> 'is_partly_settled')::boolean
       from given
     ), content as (
       insert into mail.message_content (id, message) select id, row -> 'message' from given
     )
     select id from given order by place`,
    [JSON.stringify(rows)],
  )
  return stored.map(({ id }) => id)
}

let made = 0

/** An event with a key of its own, for one message by its id. */
export function eventOf(
  sluiceId: string,
  type: FeedbackEvent['type'],
  changes: Partial<FeedbackEvent> = {},
): FeedbackEvent {
  made += 1
  return { key: `event-${made}`, type, at: new Date(), provider: 'default', match: { sluiceId }, ...changes }
}

export async function apply(db: Database, events: readonly FeedbackEvent[]): Promise<void> {
  await inTransaction(db, (trx) => applyFeedback(trx, events))
}

export async function statusOf(
  { query }: Pick<TestDatabase, 'query'>,
  id: string,
): Promise<string | undefined> {
  const [row] = await query<{ status: string }>('select status from mail.message where id = $1', [id])
  return row?.status
}

export type Suppressed = {
  readonly address: string
  readonly scope: string
  readonly origin: string
  readonly reason: string
  readonly evidence: Readonly<Record<string, unknown>> | null
  readonly expires_at: Date | null
}

/** The list as it is in force. */
export function suppressions({ query }: Pick<TestDatabase, 'query'>): Promise<Suppressed[]> {
  return query(
    `select address, scope, origin, reason, evidence, expires_at
     from mail.suppression
     where expires_at is null or expires_at > now()
     order by address, scope`,
  )
}
