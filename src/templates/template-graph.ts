import { sql } from 'kysely'
import type { Transaction } from '../db/transaction.ts'
import { ApiError } from '../errors.ts'

/** Who uses whom: the names that the published version of each template renders or takes for its layout. */
export type TemplateGraph = ReadonlyMap<string, readonly string[]>

/** Templates below one another. Enough for any layout; each level multiplies what a loop above it can do. */
export const MAX_PARTIALS_DEEP = 10

/** All who write templates take turns: names are looked up before they are taken, and cycles have two ends. */
export async function lockTemplates(trx: Transaction): Promise<void> {
  await sql`/* templates.lock */
    select from mail.latch where name = 'template' for update
  `.execute(trx)
}

/** Throws an ApiError when a cycle, or a chain too long, runs through this name; `uses`: as it will be published. */
export async function refuseGraph(trx: Transaction, name: string, uses?: readonly string[]): Promise<void> {
  const { rows } = await sql<{ name: string; uses: string[] }>`/* templates.graph */
    select t.name, latest.uses
    from mail.template t
    cross join lateral (
      select v.uses from mail.template_version v
      where v.template_id = t.id and v.published_at is not null
      order by v.version desc
      limit 1
    ) latest
    where t.removed_at is null and latest.uses <> '{}'
  `.execute(trx)
  const graph = new Map(rows.map((row) => [row.name, row.uses]))
  if (uses !== undefined) graph.set(name, [...uses])
  const fault = graphFault(graph, name)
  if (fault === undefined) return
  throw new ApiError('validation_error', `The template \`${name}\` cannot be published so: ${fault}.`)
}

/** Why a template of this name may not stand in the graph, or undefined when it may. */
export function graphFault(graph: TemplateGraph, name: string): string | undefined {
  const cycle = pathBetween(graph, name, name)
  if (cycle !== undefined) return `it would use itself: ${cycle.join(' → ')}`
  const chain = [...longestChain(reversed(graph), name).toReversed(), ...longestChain(graph, name).slice(1)]
  if (chain.length - 1 <= MAX_PARTIALS_DEEP) return undefined
  return `templates would use one another more than ${MAX_PARTIALS_DEEP} deep: ${chain.join(' → ')}`
}

/** A way of at least one step. */
function pathBetween(graph: TemplateGraph, from: string, to: string): string[] | undefined {
  const cameFrom = new Map<string, string>()
  const open = [from]
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    for (const next of graph.get(name) ?? []) {
      if (next === to) return [...wayBack(cameFrom, from, name), to]
      if (next === from || cameFrom.has(next)) continue
      cameFrom.set(next, name)
      open.push(next)
    }
  }
  return undefined
}

function wayBack(cameFrom: ReadonlyMap<string, string>, from: string, name: string): string[] {
  const way = [name]
  for (let at = name; at !== from; ) {
    const before = cameFrom.get(at)
    if (before === undefined) break
    way.unshift(before)
    at = before
  }
  return way
}

/** From this name on. Ends at a cycle, which SQL may have made elsewhere in the graph. */
function longestChain(graph: TemplateGraph, name: string): string[] {
  const chains = new Map<string, string[]>()
  const chainOf = (at: string): string[] => {
    const known = chains.get(at)
    if (known !== undefined) return known
    chains.set(at, [at])
    let longest: string[] = []
    for (const next of graph.get(at) ?? []) {
      const chain = chainOf(next)
      if (chain.length > longest.length) longest = chain
    }
    const chain = [at, ...longest]
    chains.set(at, chain)
    return chain
  }
  return chainOf(name)
}

function reversed(graph: TemplateGraph): TemplateGraph {
  const users = new Map<string, string[]>()
  for (const [name, uses] of graph) {
    for (const used of uses) users.set(used, [...(users.get(used) ?? []), name])
  }
  return users
}
