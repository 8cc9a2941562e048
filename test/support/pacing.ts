import type { TestDatabase } from './database.ts'

type Queryable = Pick<TestDatabase, 'query'>

export type Grant = {
  readonly granted: number
  readonly wait_ms: number | null
  readonly reason: string | null
}

/** A row of mail.provider; its credentials are in the variable of its name. */
export async function addProvider(
  { query }: Queryable,
  name: string,
  settings: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const row = { name, transport: 'smtp', credentials_env: variableOf(name), ...settings }
  const columns = Object.keys(row)
  await query(
    `insert into mail.provider (${columns.join(', ')}) values (${columns.map((_, index) => `$${index + 1}`).join(', ')})`,
    Object.values(row),
  )
}

export function variableOf(provider: string): string {
  return `${provider.toUpperCase()}_CREDENTIALS`
}

export async function addBucket(
  { query }: Queryable,
  provider: string,
  settings: Readonly<Record<string, unknown>>,
): Promise<void> {
  const row = { provider, name: 'only', ...settings }
  const columns = Object.keys(row)
  await query(
    `insert into mail.bucket (${columns.join(', ')}) values (${columns.map((_, index) => `$${index + 1}`).join(', ')})`,
    Object.values(row),
  )
}

export async function take(
  { query }: Queryable,
  provider: string,
  want: number,
  priority = 5,
  batch = 1,
): Promise<Grant> {
  const [grant] = await query<Grant>('select * from mail.take_tokens($1, $2, $3::smallint, $4)', [
    provider,
    want,
    priority,
    batch,
  ])
  if (grant === undefined) throw new Error('mail.take_tokens returned no row')
  return grant
}

/** Tells the breaker of requests one by one, `faults` of them the provider's own. */
export async function note(
  { query }: Queryable,
  provider: string,
  { good = 0, faults = 0, worker = 1 }: { good?: number; faults?: number; worker?: number },
): Promise<void> {
  for (let each = 0; each < good + faults; each += 1) {
    await query("select mail.note_results($1, $2, 1, $3, 'connect_failed refused')", [
      provider,
      worker,
      each < good ? 0 : 1,
    ])
  }
}

export type ProviderState = {
  readonly breaker: 'closed' | 'open' | 'half_open'
  readonly cooldown_s: number | null
  readonly probes_out: number
}

export async function stateOf({ query }: Queryable, provider: string): Promise<ProviderState | undefined> {
  const [state] = await query<ProviderState>('select * from mail.provider_state where provider = $1', [
    provider,
  ])
  return state
}

/** The events of a provider, oldest first. */
export async function providerEventsOf(
  { query }: Queryable,
  provider: string,
): Promise<{ type: string; reason: string }[]> {
  return query('select type, reason from mail.provider_event where provider = $1 order by id', [provider])
}
