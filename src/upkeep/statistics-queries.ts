import { sql } from 'kysely'
import type { Transaction } from '../db/transaction.ts'

/** How far the events are counted; undefined while another process is at it. */
export async function takeCursor(trx: Transaction): Promise<string | undefined> {
  const { rows } = await sql<{ cursor: string }>`/* statistics.take_cursor */
    select cursor from mail.consumer where name = 'stats' for update skip locked
  `.execute(trx)
  return rows[0]?.cursor
}

/** Beyond so many in a day and stream, domains and tags are counted together as `(other)`. */
const NAMED_VALUES = 500

/** Adds what happened after the cursor and moves it; returns how many events that were. */
export async function addToStatistics(trx: Transaction, after: string, most: number): Promise<number> {
  const { rows } = await sql<{ seen: string }>`/* statistics.add */
    with happened as materialized (
      select e.*, row_number() over () as nth from mail.read_events(${after}, ${most}::integer) e
    ), fact as materialized (
      select
        e.type,
        (e.at at time zone 'utc')::date as day,
        coalesce(s.name, '(unknown)') as stream,
        coalesce(m.provider, '') as provider,
        coalesce(m.template, '') as template,
        coalesce(m.template_version, 0) as template_version,
        coalesce(split_part(e.recipient, '@', 2), c.domain, '') as domain,
        coalesce(c.tags, '{}') as tags,
        case e.type when 'sent' then
          width_bucket(
            extract(epoch from e.at - greatest(m.accepted_at, m.scheduled_at))::double precision,
            mail.time_bounds()
          )
        end as bucket
      from happened e
      -- Laterals with a limit: each event finds its message by the key, whatever the planner knows of the tables.
      left join lateral (select * from mail.message m where m.id = e.message_id limit 1) m on true
      left join lateral (
        select c.recipient_domain as domain, c.tags from mail.message_content c where c.id = e.message_id limit 1
      ) c on true
      left join mail.stream s on s.name = m.stream
      where e.type in (
        'sent', 'delivered', 'deferred', 'bounced', 'complained', 'opened', 'clicked', 'unsubscribed', 'suppressed', 'dead'
      )
        -- Messages are counted: of who was left out there is an event each beside it, or alone when others got it.
        and (e.type <> 'suppressed' or e.recipient is null)
    ), met as (
      select day, stream, 'domain' as kind, domain as value, count(*) as times from fact group by day, stream, domain
      union all
      select day, stream, 'tag', tag, count(*) from fact cross join unnest(tags) tag group by day, stream, tag
    ), known as (
      select met.* from met join mail.stat_value using (day, stream, kind, value)
    ), named as (
      insert into mail.stat_value (day, stream, kind, value)
      select day, stream, kind, value
      from (
        select
          met.day, met.stream, met.kind, met.value,
          row_number() over (partition by met.day, met.stream, met.kind order by met.times desc, met.value) as nth
        from met
        left join known using (day, stream, kind, value)
        where known.value is null
      ) fresh
      where nth <= ${NAMED_VALUES} - (
        select count(*) from mail.stat_value v where (v.day, v.stream, v.kind) = (fresh.day, fresh.stream, fresh.kind)
      )
      returning day, stream, kind, value
    ), value as (
      select day, stream, kind, value from known
      union all
      select day, stream, kind, value from named
    ), line as materialized (
      select type, f.day, f.stream, provider, template, template_version, coalesce(v.value, '(other)') as domain, '' as tag, bucket
      from fact f
      left join value v on v.day = f.day and v.stream = f.stream and v.kind = 'domain' and v.value = f.domain
      union all
      select type, f.day, f.stream, '', '', 0, '', coalesce(v.value, '(other)'), bucket
      from fact f
      cross join unnest(f.tags) t
      left join value v on v.day = f.day and v.stream = f.stream and v.kind = 'tag' and v.value = t
    ), counted as (
      insert into mail.stat as s (
        day, stream, provider, template, template_version, domain, tag,
        sent, delivered, deferred, bounced, complained, opened, clicked, unsubscribed, suppressed, dead
      )
      select
        day, stream, provider, template, template_version, domain, tag,
        count(*) filter (where type = 'sent'),
        count(*) filter (where type = 'delivered'),
        count(*) filter (where type = 'deferred'),
        count(*) filter (where type = 'bounced'),
        count(*) filter (where type = 'complained'),
        count(*) filter (where type = 'opened'),
        count(*) filter (where type = 'clicked'),
        count(*) filter (where type = 'unsubscribed'),
        count(*) filter (where type = 'suppressed'),
        count(*) filter (where type = 'dead')
      from line
      group by day, stream, provider, template, template_version, domain, tag
      on conflict (day, stream, provider, template, template_version, domain, tag) do update set
        sent = s.sent + excluded.sent,
        delivered = s.delivered + excluded.delivered,
        deferred = s.deferred + excluded.deferred,
        bounced = s.bounced + excluded.bounced,
        complained = s.complained + excluded.complained,
        opened = s.opened + excluded.opened,
        clicked = s.clicked + excluded.clicked,
        unsubscribed = s.unsubscribed + excluded.unsubscribed,
        suppressed = s.suppressed + excluded.suppressed,
        dead = s.dead + excluded.dead
    ), timed as (
      insert into mail.stat_time as t (day, stream, provider, template, template_version, domain, tag, bucket, messages)
      select day, stream, provider, template, template_version, domain, tag, bucket, count(*)
      from line
      where bucket is not null
      group by day, stream, provider, template, template_version, domain, tag, bucket
      on conflict (day, stream, provider, template, template_version, domain, tag, bucket)
      do update set messages = t.messages + excluded.messages
    ), moved as (
      update mail.consumer
      set cursor = (select cursor from happened order by nth desc limit 1), moved_at = clock_timestamp()
      where name = 'stats' and exists (select from happened)
    )
    select count(*) as seen from happened
  `.execute(trx)
  return Number(rows[0]?.seen ?? 0)
}
