-- Everything that happens, for readers that must miss nothing: mail.event in an order that late commits cannot break.

create function mail.read_events(after text default null, max integer default 1000)
returns table (
  cursor text,
  message_id uuid,
  at timestamptz,
  type text,
  recipient text,
  detail json
)
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  -- Every transaction below it has ended: no row can still appear among those that are read.
  horizon xid8 := pg_snapshot_xmin(pg_current_snapshot());
  last_xid xid8 := coalesce(nullif(split_part(read_events.after, ':', 1), ''), '0')::xid8;
  last_id bigint := coalesce(nullif(split_part(read_events.after, ':', 2), ''), '0')::bigint;
begin
  if last_xid > pg_snapshot_xmax(pg_current_snapshot()) then
    raise exception 'the cursor % is of another server, or of a time that a restore undid', read_events.after
      using errcode = 'object_not_in_prerequisite_state',
        hint = 'Start again with mail.latest_event() for what comes from now on, or with null for everything kept.';
  end if;
  return query
    select e.xid::text || ':' || e.id, e.message_id, e.at, e.type, e.recipient, e.detail
    from mail.event e
    where e.xid >= last_xid
      and (e.xid > last_xid or e.id > last_id)
      and e.xid < horizon
    order by e.xid, e.id
    limit read_events.max;
end
$$;
comment on function mail.read_events(text, integer) is
  'The events after a cursor (null: from the first that is kept), in one order for all readers; keep the cursor of the last row. Misses nothing: what a transaction that is still open may add comes later. A long transaction anywhere in the server holds it back.';

create function mail.latest_event() returns text
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select pg_snapshot_xmin(pg_current_snapshot())::text || ':0'
$$;
comment on function mail.latest_event() is 'The cursor for mail.read_events after everything that has happened so far, but for what happened beside a transaction that is still open.';

create function mail.adopt_events() returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  adopted bigint;
begin
  update mail.event set xid = '3' where xid > pg_current_xact_id();
  get diagnostics adopted = row_count;
  update mail.consumer set cursor = mail.latest_event()
  where split_part(cursor, ':', 1)::xid8 > pg_current_xact_id();
  update mail.webhook_endpoint set skipped_from = null, backfill_from = null
  where coalesce(skipped_from, backfill_from) is not null;
  return adopted;
end
$$;
comment on function mail.adopt_events() is
  'After pg_restore into another server, whose transactions are numbered anew: events from the old one count as read. Run once, before the service starts.';

create table mail.consumer (
  name text primary key
    constraint consumer_name_is_short_and_plain check (name ~ '^[a-z0-9_.-]{1,64}$'),
  cursor text not null
    constraint cursor_is_as_read_events_gives_it check (cursor ~ '^[0-9]{1,20}:[0-9]{1,19}$'),
  moved_at timestamptz not null default clock_timestamp()
);
comment on table mail.consumer is 'How far each reader of mail.event has come; moved in the transaction that does the reader''s work.';
