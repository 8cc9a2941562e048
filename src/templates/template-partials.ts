import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import type { Transaction } from '../db/transaction.ts'
import type { TemplatePartial } from './template-content.ts'
import { MAX_PARTIALS_DEEP } from './template-graph.ts'

/** A root is whatever the asker calls the template that uses these names. */
export type WantedPartials = { readonly root: string; readonly uses: readonly string[] }
export type FoundPartial = TemplatePartial & {
  readonly root: string
  readonly id: string
  readonly version: number
}

/**
 * Everything that the roots use, directly or through others, as it is published now; in the order of names. A name that
 * means nothing is left out, and whoever renders says so.
 */
export async function findPartials(
  db: Database | Transaction,
  roots: readonly WantedPartials[],
): Promise<FoundPartial[]> {
  const wanted = roots.flatMap(({ root, uses }) => uses.map((name) => ({ root, name })))
  if (wanted.length === 0) return []
  const { rows } = await sql<FoundPartial>`/* templates.partials */
    with recursive used as (
      select root, name, 1 as depth from json_to_recordset(${JSON.stringify(wanted)}::json) as wanted (root text, name text)
      union
      select used.root, further.name, used.depth + 1
      from used
      join mail.template t on t.name = used.name and t.removed_at is null
      cross join lateral (
        select v.uses from mail.template_version v
        where v.template_id = t.id and v.published_at is not null
        order by v.version desc
        limit 1
      ) latest
      cross join lateral unnest(latest.uses) as further (name)
      where used.depth < ${MAX_PARTIALS_DEEP}::integer
    )
    select named.root, named.name, t.id, latest.version, latest.html, latest.text
    from (select distinct root, name from used) named
    join mail.template t on t.name = named.name and t.removed_at is null
    cross join lateral (
      select v.version, v.html, v.text from mail.template_version v
      where v.template_id = t.id and v.published_at is not null
      order by v.version desc
      limit 1
    ) latest
    order by named.root, named.name
  `.execute(db)
  return rows
}
