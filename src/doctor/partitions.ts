import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { counted, listed } from './words.ts'

/** The upkeep makes seven days ahead, every hour: fewer than these mean that it has not run for days. */
const FEW_DAYS = 4

export async function checkPartitions({ ask }: Reader): Promise<Finding[]> {
  const tables = await ask<{ parent: string; ahead: number }>(`/* doctor.partitions */
    select p.relname::text as parent, count(c.oid) filter (
      where to_date(right(c.relname, 8), 'YYYYMMDD') > (now() at time zone 'utc')::date
    )::integer as ahead
    from pg_partitioned_table t
    join pg_class p on p.oid = t.partrelid
    join pg_namespace n on n.oid = p.relnamespace
    left join pg_inherits i on i.inhparent = p.oid
    left join pg_class c on c.oid = i.inhrelid and c.relname ~ '_[0-9]{8}$'
    where n.nspname = 'mail'
    group by p.relname
    order by ahead, p.relname`)
  const late = await ask<{ parent: string }>(`/* doctor.default_partitions */
    select 'message' as parent where exists (select from mail.message_default)
    union all select 'message_content' where exists (select from mail.message_content_default)
    union all select 'message_prepared' where exists (select from mail.message_prepared_default)
    union all select 'event' where exists (select from mail.event_default)
    union all select 'finder' where exists (select from mail.finder_default)
    union all select 'provider_ref' where exists (select from mail.provider_ref_default)
    union all select 'feedback_seen' where exists (select from mail.feedback_seen_default)`)
  return [aheadOf(tables), ...lateOf(late.map(({ parent }) => parent))]
}

function aheadOf(tables: readonly { parent: string; ahead: number }[]): Finding {
  const name = 'partitions'
  const least = tables[0]?.ahead ?? 0
  const found = `${counted(least, 'day')} ahead`
  if (least >= FEW_DAYS) return ok(name, found)
  const few = tables.filter(({ ahead }) => ahead < FEW_DAYS).map(({ parent }) => parent)
  const advice = 'select mail.ensure_partitions(); a running process does it every hour: look at its log'
  return (least === 0 ? problem : warning)(name, `${found} in ${listed(few)}`, advice)
}

/** Old mail leaves by dropping its day; what is in a default partition has none. */
function lateOf(parents: readonly string[]): Finding[] {
  if (parents.length === 0) return []
  return [
    warning(
      'default partitions',
      `rows in the default partition of ${listed(parents)}: they came when their day had no partition`,
      'select mail.ensure_partitions() moves those of the coming days; older ones stay until they are deleted',
    ),
  ]
}
