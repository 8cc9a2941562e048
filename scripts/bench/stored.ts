import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from 'pg'

/** Between looks at what is stored. No figure depends on it: times are taken where things happen. */
const LOOK_MS = 20
/** Looks that count a million rows come rarely: they may take this share of one connection's time. */
const LOOK_SHARE = 0.05
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
    const lookedAt = performance.now()
    const now = await countAfter(client, seq, "status = 'sent'")
    if (now !== sent) movedAt = performance.now()
    sent = now
    if (sent >= count || performance.now() - movedAt > STALL_MS)
      return { sent, lost: Math.max(0, count - sent) }
    await pauseAfter(lookedAt)
  }
}

/** Looks until both doors are empty; says how many messages came after `seq`. */
export async function untilMoved(client: Client, seq: string): Promise<number> {
  for (;;) {
    const { rows } = await client.query<{ waiting: boolean }>(
      'select exists (select from mail.intake) or exists (select from mail.outbox) as waiting',
    )
    if (rows[0]?.waiting === false) return countAfter(client, seq, 'true')
    await delay(LOOK_MS)
  }
}

/** Looks until `count` messages after `seq` wait for their provider. A few may go before workers notice the pause. */
export async function untilQueued(client: Client, seq: string, count: number): Promise<void> {
  for (;;) {
    const lookedAt = performance.now()
    if ((await countAfter(client, seq, "status <> 'accepted'")) >= count) return
    await pauseAfter(lookedAt)
  }
}

/** `condition` is SQL about mail.message, written here and there by hand. */
export async function countAfter(client: Client, seq: string, condition: string): Promise<number> {
  const { rows } = await client.query<{ count: number }>(
    `select count(*)::integer as count from mail.message where seq > $1 and ${condition}`,
    [seq],
  )
  return rows[0]?.count ?? 0
}

function pauseAfter(lookedAtMs: number): Promise<void> {
  return delay(Math.max(LOOK_MS, (performance.now() - lookedAtMs) / LOOK_SHARE))
}
