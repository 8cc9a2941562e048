import assert from 'node:assert/strict'
import type { TestDatabase } from './database.ts'
import { eventually } from './eventually.ts'
import { orderMail, type TestService } from './service.ts'

type Queryable = Pick<TestDatabase, 'query'>

/** Hands over one message by REST; fails unless it was accepted. Returns its id. */
export async function post(
  service: Pick<TestService, 'request'>,
  changes: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const response = await service.request('/emails', { body: orderMail(changes) })
  const answer = (await response.json()) as { id: string }
  assert.equal(response.status, 200, JSON.stringify(answer))
  return answer.id
}

/** Hands over `count` messages by SQL in one durable statement, each to a recipient of its own. */
export async function insertMany(
  { query }: Queryable,
  count: number,
  changes: Readonly<Record<string, unknown>> = {},
): Promise<string[]> {
  const rows = await query<{ id: string }>(
    `insert into mail.outbox (message)
     select ($1::jsonb || jsonb_build_object('to', 'user' || n || '@example.net'))::json
     from generate_series(1, $2::integer) n
     returning id`,
    [JSON.stringify(orderMail(changes)), count],
  )
  return rows.map(({ id }) => id)
}

export type MessageRow = {
  readonly status: string
  readonly attempts: number
  readonly worker: number | null
  readonly provider: string | null
  readonly template: string | null
  readonly template_version: number | null
  readonly last_error: string | null
}

export async function readMessage({ query }: Queryable, id: string): Promise<MessageRow | undefined> {
  const [row] = await query<MessageRow>('select * from mail.message where id = $1', [id])
  return row
}

export function untilStatus(database: Queryable, id: string, status: string): Promise<MessageRow> {
  return eventually(`message ${id} is ${status}`, async () => {
    const row = await readMessage(database, id)
    return row?.status === status && row
  })
}

/** Resolves when every message accepted so far has this status, and there are so many. */
export async function untilAll(
  { query }: Queryable,
  count: number,
  status: string,
  deadlineMs?: number,
): Promise<void> {
  let seen = ''
  try {
    await eventually(
      `${count} messages are ${status}`,
      async () => {
        const rows = await query<{ status: string; count: number }>(
          'select status, count(*)::integer as count from mail.message group by status',
        )
        seen = JSON.stringify(rows)
        return rows.length === 1 && rows[0]?.status === status && rows[0].count === count
      },
      deadlineMs,
    )
  } catch (cause) {
    throw new Error(`${(cause as Error).message}, but ${seen}`, { cause })
  }
}

export type DeadLetter = {
  readonly stage: string
  readonly code: string
  readonly reason: string
  readonly template: string | null
  readonly template_version: number | null
}

export async function deadLetterOf({ query }: Queryable, id: string): Promise<DeadLetter> {
  return eventually(`message ${id} has a dead letter`, async () => {
    const rows = await query<DeadLetter>(
      'select stage, code, reason, template, template_version from mail.dead_letter where message_id = $1',
      [id],
    )
    return rows[0]
  })
}

export async function eventTypesOf({ query }: Queryable, id: string): Promise<string[]> {
  const rows = await query<{ type: string }>(
    'select type from mail.event where message_id = $1 order by at, id',
    [id],
  )
  return rows.map(({ type }) => type)
}
