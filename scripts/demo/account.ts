import type { Shop } from './shop.ts'

/** What became of every message: as Sluice has it, and as the providers saw it. */
export async function accountOf(
  { sql, api, relay, oldRelay }: Shop,
  resets: readonly string[],
): Promise<{ text: string; isWhole: boolean }> {
  const messages = await sql<{ id: string; status: string }>('select id, status from mail.message')
  const arrived = new Map<string, number>()
  for (const provider of [api, relay, oldRelay]) {
    for (const [id, times] of provider.arrived) arrived.set(id, (arrived.get(id) ?? 0) + times)
  }
  const lost = messages.filter(({ id, status }) => status === 'sent' && !arrived.has(id)).length
  const unsent = messages.filter(({ status }) => status !== 'sent').length
  const duplicated = [...arrived.values()].filter((times) => times > 1).length
  const [times] = await sql<{ p50: number; most: number }>(
    `select percentile_cont(0.5) within group (order by took) as p50, max(took) as most
     from (select extract(epoch from sent_at - accepted_at)::float as took from mail.message where id = any ($1::uuid[])) reset`,
    [resets],
  )
  const seconds = (value: number | undefined) => `${(value ?? 0).toFixed(2)} s`
  return {
    isWhole: lost === 0 && duplicated === 0 && unsent === 0,
    text: `
Accepted ${messages.length}, arrived ${arrived.size}, lost ${lost}, duplicated ${duplicated}, not sent ${unsent}.
By provider: api ${api.arrived.size} (which said 429 ${api.refusals()} times), default ${relay.arrived.size}, old-relay ${oldRelay.arrived.size}.
${resets.length} password resets went out meanwhile: half of them within ${seconds(times?.p50)}, all within ${seconds(times?.most)}.
`,
  }
}
