import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'

/** Between looks at what is stored. No figure depends on it: times are taken where things happen. */
const LOOK_MS = 20
const STALL_MS = 60_000

/** Messages accepted from now on have a larger sequence number. */
export async function firstSeq(client: Client): Promise<string> {
  const { rows } = await client.query<{ seq: string }>("select nextval('mail.message_seq') as seq")
  return rows[0]?.seq ?? '0'
}

/** Looks until `count` messages after `seq` were sent, or nothing moves any more; says how many were not. */
export async function untilSettled(
  client: Client,
  seq: string,
  count: number,
): Promise<{ readonly sent: number; readonly lost: number }> {
  let sent = -1
  let movedAt = performance.now()
  for (;;) {
    const { rows } = await client.query<{ sent: number }>(
      "select count(*) filter (where status = 'sent')::integer as sent from mail.message where seq > $1",
      [seq],
    )
    const now = rows[0]?.sent ?? 0
    if (now !== sent) movedAt = performance.now()
    sent = now
    if (sent >= count || performance.now() - movedAt > STALL_MS)
      return { sent, lost: Math.max(0, count - sent) }
    await delay(LOOK_MS)
  }
}

/** Looks until both doors are empty and nothing new is stored; says how many messages came after `seq`. */
export async function untilMoved(client: Client, seq: string): Promise<number> {
  for (;;) {
    const { rows } = await client.query<{ waiting: boolean; stored: number }>(
      `select
         exists (select from mail.intake) or exists (select from mail.outbox) as waiting,
         (select count(*)::integer from mail.message where seq > $1) as stored`,
      [seq],
    )
    if (rows[0]?.waiting !== true) return rows[0]?.stored ?? 0
    await delay(LOOK_MS)
  }
}

/** Looks until `count` messages after `seq` wait for their provider. */
export async function untilQueued(client: Client, seq: string, count: number): Promise<void> {
  for (;;) {
    const { rows } = await client.query<{ queued: number }>(
      // A few may have gone before the workers noticed the pause.
      "select count(*)::integer as queued from mail.message where seq > $1 and status <> 'accepted'",
      [seq],
    )
    if ((rows[0]?.queued ?? 0) >= count) return
    await delay(LOOK_MS)
  }
}
