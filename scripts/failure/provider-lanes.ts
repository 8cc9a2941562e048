import { orderMail } from '../../test/support/service.ts'
import type { Queryable } from './queryable.ts'
import type { Scene } from './run.ts'

/** A provider and a stream of the same name that routes to it alone. */
export type ProviderLane = {
  readonly name: string
  readonly transport: string
  readonly onUnknown?: 'retry' | 'hold'
  readonly baseUrl?: string
  readonly options?: Readonly<Record<string, string>>
}

export type LaneRules = { readonly attempts: number; readonly backoffS: number; readonly slots: number }

/** Where its credentials are. */
export function variableOf({ name }: Pick<ProviderLane, 'name'>): string {
  return `LANE_${name.toUpperCase()}`
}

/** Their breakers never open: these runs are about each message, and a breaker keeps most of them from the provider. */
export async function addLanes(
  { query }: Queryable,
  lanes: readonly ProviderLane[],
  { attempts, backoffS, slots }: LaneRules,
): Promise<void> {
  const rows = lanes.map((lane) => {
    const { name, transport, baseUrl = null, options = {}, onUnknown = 'retry' } = lane
    return { name, transport, baseUrl, options, onUnknown, variable: variableOf(lane) }
  })
  await query(
    `with row as (
       select * from json_to_recordset($1::json)
         as row (name text, transport text, variable text, "baseUrl" text, options jsonb)
     )
     insert into mail.provider (name, transport, credentials_env, base_url, options, breaker_run, breaker_volume)
     select name, transport, variable, "baseUrl", options, 1000000, 1000000 from row`,
    [JSON.stringify(rows)],
  )
  await query(
    `with row as (select * from json_to_recordset($1::json) as row (name text, "onUnknown" text))
     insert into mail.stream (name, route, on_unknown, attempts, backoff_base_s, backoff_factor, backoff_cap_s, slots)
     select name, array[name], "onUnknown", $2, $3, 1, $3, $4 from row`,
    [JSON.stringify(rows), attempts, backoffS, slots],
  )
}

/** A message for each key, all in one commit. The ledger knows them by their first recipient, the key. Returns ids by key. */
export async function handOverTo(
  { ledger }: Pick<Scene, 'ledger'>,
  { query }: Queryable,
  stream: string,
  mails: ReadonlyMap<string, Readonly<Record<string, unknown>>>,
): Promise<ReadonlyMap<string, string>> {
  for (const key of mails.keys()) ledger.attempt(key)
  const rows = await query<{ id: string; key: string }>(
    `insert into mail.outbox (message, stream) select mail, $2 from json_array_elements($1::json) mail
     returning id, message->'to'->>0 as key`,
    [JSON.stringify([...mails].map(([key, mail]) => orderMail({ to: [key], ...mail }))), stream],
  )
  for (const { id, key } of rows) ledger.acknowledge(key, id)
  return new Map(rows.map(({ id, key }) => [key, id]))
}

/** Resolves when each of these messages has an event with this code. */
export async function untilAllMet({ query }: Queryable, code: string, ids: readonly string[]): Promise<void> {
  for (;;) {
    const [row] = await query<{ met: number }>(
      `select count(distinct message_id)::integer as met from mail.event
       where message_id = any ($1::uuid[]) and detail ->> 'code' = $2`,
      [ids, code],
    )
    if (row?.met === ids.length) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** Of a stream's mail, from acceptance on. */
export async function p95ToSendS({ query }: Queryable, stream: string): Promise<number> {
  const [row] = await query<{ seconds: number | null }>(
    `select percentile_cont(0.95) within group (order by extract(epoch from sent_at - accepted_at)) as seconds
     from mail.message where stream = $1`,
    [stream],
  )
  return row?.seconds ?? Number.NaN
}

/** Faults of many messages as sentences, each fault once. */
export class Faults {
  readonly #keys = new Map<string, string[]>()

  add(key: string, fault: string | undefined): void {
    if (fault !== undefined) this.#keys.set(fault, [...(this.#keys.get(fault) ?? []), key])
  }

  sentences(): string[] {
    return [...this.#keys].map(([fault, keys]) => `${fault} (${keys.length} times, such as ${keys[0]})`)
  }
}
