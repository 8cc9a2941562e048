-- How long what is kept: rules, what they would remove, and removing it; and a person's erasure.

alter table mail.stream
  add column content_days integer not null default 30
    constraint content_days_is_0_to_3650 check (content_days between 0 and 3650),
  add column metadata_days integer not null default 90
    constraint metadata_days_is_at_most_3650 check (metadata_days <= 3650),
  add constraint metadata_days_is_at_least_content_days check (metadata_days >= content_days);
comment on column mail.stream.content_days is
  'Bodies, subjects, template data and attachments stay for so many whole days after the UTC day of acceptance, and until the message is settled; 0: only until then.';
comment on column mail.stream.metadata_days is
  'The rest of a message stays for so many: its status, timeline and search terms.';

create function mail.over_before(days integer) returns uuid
language sql stable strict parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  select mail.uuid7_floor(((now() at time zone 'utc')::date - over_before.days)::timestamp at time zone 'utc')
$$;
comment on function mail.over_before(integer) is
  'Messages with a smaller id are of UTC days that ended at least so many days ago: the one rule by which retention counts.';

create function mail.is_settled(status text) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  select is_settled.status in ('sent', 'delivered', 'bounced', 'complained', 'suppressed', 'canceled')
$$;
comment on function mail.is_settled(text) is
  'Nothing leads from these states back to sending: what is settled may leave. (A dead letter can be retried, one that is unknown be settled.)';

create function mail.envelope_of(message json, sender json, reply_to json) returns json
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select json_strip_nulls(json_build_object(
    'from', coalesce(e."from", envelope_of.sender),
    'to', e."to",
    'cc', e.cc,
    'bcc', e.bcc,
    'reply_to', case when json_array_length(e.reply_to) > 0 then e.reply_to else coalesce(envelope_of.reply_to, e.reply_to) end,
    'tags', e.tags,
    'metadata', e.metadata
  ))
  from json_to_record(envelope_of.message)
    as e ("from" json, "to" json, cc json, bcc json, reply_to json, tags json, metadata json)
$$;
comment on function mail.envelope_of(json, json, json) is
  'What stays of a stored message without its content: whom it is from and to, tags and metadata; sender and reply_to of its template where it names none.';

create function mail.remove_content(ids uuid[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  removed bigint;
begin
  with kept as materialized (
    select s.name as stream, s.content_days = 0 as is_bare, mail.over_before(s.content_days) as over_before from mail.stream s
  ), over as materialized (
    select m.id
    from mail.message m
    join kept on kept.stream = m.stream
    where m.id = any (ids) and mail.is_settled(m.status) and (kept.is_bare or m.id < kept.over_before)
  ), prepared as (
    delete from mail.message_prepared p using over
    where p.id = over.id and p.id = any (ids)
    returning p.id, p.sender, p.reply_to
  )
  -- The envelope stays: bounces and complaints come late, and are believed only of those it was sent to.
  update mail.message_content c
  set removed_at = clock_timestamp(), sealed = null, key_id = null,
    message = case
      -- What the intake refused is kept as it was given, and may hold text that cannot be read.
      when exists (select from mail.event e where e.message_id = c.id and e.type in ('accepted', 'scheduled'))
      then mail.envelope_of(c.message, prepared.sender, prepared.reply_to)
      else '{}'
    end
  from over
  left join prepared on prepared.id = over.id
  where c.id = over.id and c.id = any (ids) and c.removed_at is null;
  get diagnostics removed = row_count;
  return removed;
end
$$;
comment on function mail.remove_content(uuid[]) is
  'Removes the content of those of the messages that are settled and whose stream keeps it no longer; leaves all others alone. Called by whoever settles messages, in the same transaction.';

create table mail.retention (
  one boolean primary key default true
    constraint there_is_one_row check (one),
  envelope_days integer not null default 30
    constraint envelope_days_is_0_to_3650 check (envelope_days between 0 and 3650),
  dead_letter_days integer not null default 90
    constraint dead_letter_days_is_1_to_3650 check (dead_letter_days between 1 and 3650),
  webhook_days integer not null default 30
    constraint webhook_days_is_1_to_3650 check (webhook_days between 1 and 3650),
  feedback_days integer not null default 30
    constraint feedback_days_is_1_to_3650 check (feedback_days between 1 and 3650),
  parked_days integer not null default 90
    constraint parked_days_is_1_to_3650 check (parked_days between 1 and 3650),
  provider_event_days integer not null default 90
    constraint provider_event_days_is_1_to_3650 check (provider_event_days between 1 and 3650),
  stat_days integer not null default 400
    constraint stat_days_is_1_to_3650 check (stat_days between 1 and 3650),
  suppression_days integer not null default 30
    constraint suppression_days_is_0_to_3650 check (suppression_days between 0 and 3650),
  alert_days integer not null default 90
    constraint alert_days_is_1_to_3650 check (alert_days between 1 and 3650)
);
insert into mail.retention default values;
comment on table mail.retention is
  'How many days is kept what is of no stream; streams have content_days and metadata_days of their own. One row, changed live.';
comment on column mail.retention.envelope_days is
  'Whom a message was from and to, its tags and metadata stay at least so long, though its content has gone: bounces come late. Never longer than metadata_days.';
comment on column mail.retention.dead_letter_days is
  'Then a dead letter is discarded. Until then its content stays, whatever its stream says: it can be retried.';
comment on column mail.retention.webhook_days is 'Deliveries to the app''s webhooks that ended, with their attempts.';
comment on column mail.retention.feedback_days is
  'Raw deliveries of providers that were applied, and events that no message was found for.';
comment on column mail.retention.parked_days is 'Raw deliveries of providers that could not be read or applied, for a person to look at.';
comment on column mail.retention.suppression_days is 'After the end of a suppression that has one.';
comment on column mail.retention.alert_days is 'After an alert was over.';

create table mail.retention_mark (
  day date not null,
  stream text not null,
  what text not null
    constraint mark_is_known check (what in ('content', 'metadata', 'attachments')),
  is_done boolean not null,
  looked_at timestamptz not null default now(),
  primary key (day, stream, what)
);
comment on table mail.retention_mark is
  'Days and streams that retention has been through: not looked at again, or after a day when something there is not settled.';

create function mail.attachments_in(content text) returns setof text
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select lower(found[1]) from regexp_matches(content, '"sha256"\s*:\s*"([0-9A-Fa-f]{64})"', 'g') as found
$$;
comment on function mail.attachments_in(text) is 'The hashes of the stored attachments that a message names, or a list of attachments, as JSON text.';

create type mail.retention_step as (
  place integer,
  action text,
  relation text,
  stream text,
  day date,
  source text,
  low uuid,
  high uuid,
  before timestamptz,
  why text
);

comment on type mail.retention_step is 'One step of retention: what is to leave, and the query that finds it.';

create function mail.retention_due() returns setof mail.retention_step
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  today date := (now() at time zone 'utc')::date;
  r mail.retention;
  nobody uuid := '00000000-0000-0000-0000-000000000000';
  longest record;
begin
  select * into strict r from mail.retention;
  -- Without any stream nothing is over.
  select
    coalesce(max(greatest(s.content_days, least(s.metadata_days, r.envelope_days))), 36500) as content,
    coalesce(max(s.metadata_days), 36500) as metadata
  into longest from mail.stream s;

  return query
  with kept_for (relation, days, condition, why) as (
    values
      ('idempotency', 0, 't.expires_at < now()', 'idempotency keys that have expired'),
      ('webhook_delivery', r.webhook_days,
        $c$t.id < mail.webhook_id_floor($1) and (
          t.state in ('success', 'failed') or not exists (select from mail.webhook_endpoint e where e.id = t.endpoint_id)
        )$c$, 'webhooks told, or given up'),
      ('feedback', r.feedback_days, $c$t.received_at < $1 and t.state = 'applied'$c$, 'deliveries of providers that were applied'),
      ('feedback', r.parked_days, $c$t.received_at < $1 and t.state = 'parked'$c$, 'deliveries of providers that nobody repaired'),
      ('feedback_unmatched', r.feedback_days, 't.received_at < $1 and t.next_try_at is null', 'events that no message was found for'),
      ('provider_event', r.provider_event_days, 't.at < $1', 'what happened to providers'),
      ('stat', r.stat_days, $c$t.day < ($1 at time zone 'utc')::date$c$, 'statistics'),
      ('stat_time', r.stat_days, $c$t.day < ($1 at time zone 'utc')::date$c$, 'statistics'),
      ('stat_value', r.stat_days, $c$t.day < ($1 at time zone 'utc')::date$c$, 'statistics'),
      ('suppression', r.suppression_days, 't.expires_at < $1', 'suppressions that ended'),
      ('suppression_hash', r.suppression_days, 't.expires_at < $1', 'suppressions of erased addresses that ended'),
      ('retention_mark', longest.metadata + 1, $c$t.day < ($1 at time zone 'utc')::date$c$, 'notes of retention about days that are gone'),
      ('alert', r.alert_days, 't.resolved_at < $1', 'alerts that are over')
  ), partition (parent, relation, day) as (
    select p.relname::text, c.relname::text, to_date(right(c.relname, 8), 'YYYYMMDD')
    from pg_inherits i
    join pg_class p on p.oid = i.inhparent
    join pg_class c on c.oid = i.inhrelid
    where p.relnamespace = 'mail'::regnamespace and c.relname ~ '_[0-9]{8}$'
  ), per_stream (name, content, metadata) as (
    select s.name, s.content_days, s.metadata_days from mail.stream s
  ), mark as (
    select m.* from mail.retention_mark m where m.is_done or m.looked_at > now() - interval '1 day'
  ), due (place, action, relation, stream, day, source, low, high, days, why) as (
    select
      1, 'delete rows', k.relation, null::text, null::date, format('mail.%I t where %s', k.relation, k.condition),
      nobody, nobody, k.days, k.why
    from kept_for k
    where to_regclass('mail.' || k.relation) is not null
    union all
    select
      2, 'discard dead letters', 'dead_letter', null, null, 'mail.dead_letter t where t.died_at < $1', nobody, nobody,
      r.dead_letter_days, 'dead letters that nobody retried'
    union all
    select
      3, 'remove content', p.relation, s.name, p.day,
      format(
        'mail.%I t join mail.message m on m.id = t.id
         where t.removed_at is null and t.id >= $3 and t.id < $4
           and m.stream = $2 and mail.is_settled(m.status) and m.id >= $3 and m.id < $4',
        p.relation
      ),
      nobody, mail.over_before(s.content), s.content, 'content of a stream that keeps it shorter than others'
    from per_stream s
    join (
      select partition.relation, partition.day from partition where partition.parent = 'message_content'
      union all
      select 'message_content_default', null where exists (select from mail.message_content_default)
    -- Older days leave whole.
    ) p on p.day is null or (p.day < today - s.content and p.day >= today - longest.content)
    where not exists (select from mark where (mark.day, mark.stream, mark.what) = (p.day, s.name, 'content'))
    union all
    select
      4, 'delete messages', p.relation, s.name, p.day,
      format('mail.%I t where %s and mail.is_settled(t.status) and t.id >= $3 and t.id < $4', p.relation,
        case when s.name is null then 'not exists (select from mail.stream s where s.name = t.stream)' else 't.stream = $2' end),
      nobody, mail.over_before(s.metadata), s.metadata,
      case when p.day is null then 'messages that were not settled when their day left' else 'messages of a stream that keeps them shorter than others' end
    from (select * from per_stream union all select null, 0, longest.metadata) s
    join (
      select partition.relation, partition.day from partition where partition.parent = 'message'
      union all
      select 'message_default', null where exists (select from mail.message_default)
    ) p on p.day is null or (p.day < today - s.metadata and p.day >= today - longest.metadata)
    where not exists (select from mark where (mark.day, mark.stream, mark.what) = (p.day, s.name, 'metadata'))
    union all
    select
      5, 'delete rows', left_over.relation, null, null,
      format(
        'mail.%I t where t.%I < $4 and not exists (select from mail.message m where m.id = t.%I)',
        left_over.relation, left_over.key_column, left_over.key_column
      ),
      nobody, mail.over_before(longest.metadata), longest.metadata, 'rows whose message has left'
    from (
      values ('message_content_default', 'id'), ('message_prepared_default', 'id'), ('event_default', 'message_id'),
        ('finder_default', 'message_id'), ('provider_ref_default', 'message_id'), ('feedback_seen_default', 'message_id')
    ) as left_over (relation, key_column)
    union all
    select
      6, 'forget attachments', 'attachment_use', u.stream, u.day,
      'mail.attachment_use t
       where t.stream = $2 and t.day = mail.uuid7_day($3)
         -- Held back with the messages that carry them.
         and encode(t.sha256, ''hex'') not in (
           select mail.attachments_in(concat(c.message, p.attachments))
           from mail.message m
           join mail.message_content c on c.id = m.id and c.id >= $3 and c.id < $4
           left join mail.message_prepared p on p.id = m.id and p.id >= $3 and p.id < $4
           where m.stream = $2 and not mail.is_settled(m.status) and m.id >= $3 and m.id < $4
         )
         -- Which ones sensitive mail carries nobody can read.
         and not exists (
           select from mail.message m
           where m.stream = $2 and m.is_sensitive and not mail.is_settled(m.status) and m.id >= $3 and m.id < $4
         )',
      nobody, nobody, coalesce(s.content, longest.content), 'uses of attachments by messages whose content is gone'
    from (select distinct a.stream, a.day from mail.attachment_use a where a.day < today) u
    left join per_stream s on s.name = u.stream
    where u.day < today - coalesce(s.content, longest.content)
      and not exists (select from mark where (mark.day, mark.stream, mark.what) = (u.day, u.stream, 'attachments'))
    union all
    -- Last: each look asks for the table, and while somebody uses it, all others wait for that.
    select
      7, 'drop partition', p.relation, null, p.day, null, nobody, nobody, kept.days,
      format('the %s of every stream is over', kept.what)
    from partition p
    cross join lateral (
      select
        case when p.parent in ('message_content', 'message_prepared') then longest.content else longest.metadata end as days,
        case when p.parent in ('message_content', 'message_prepared') then 'content' else 'metadata' end as what
    ) kept
    where p.day < today - kept.days
  )
  select
    d.place, d.action, d.relation, d.stream, d.day, d.source,
    case when d.day is null then d.low else mail.uuid7_floor(d.day::timestamp at time zone 'utc') end,
    case when d.day is null then d.high else mail.uuid7_floor((d.day + 1)::timestamp at time zone 'utc') end,
    case when d.place between 3 and 7 then (today - d.days)::timestamp at time zone 'utc' else now() - make_interval(days => d.days) end,
    d.why
  from due d
  order by d.place, d.day, d.relation, d.stream;
end
$$;
comment on function mail.retention_due() is
  'The rules of retention as steps: what mail.retention_plan counts and mail.retain does, in this order. In source, $1 is before, $2 the stream, $3 and $4 the bounds of ids.';

create function mail.retention_plan() returns table (
  action text,
  relation text,
  stream text,
  rows bigint,
  bytes bigint,
  before timestamptz,
  why text
)
language plpgsql stable security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  step mail.retention_step;
begin
  for step in select * from mail.retention_due() loop
    action := step.action;
    relation := step.relation;
    stream := step.stream;
    before := step.before;
    why := step.why;
    if step.action = 'drop partition' then
      select nullif(c.reltuples, -1)::bigint, pg_total_relation_size(c.oid) into rows, bytes
      from pg_class c where c.oid = to_regclass('mail.' || quote_ident(step.relation));
    else
      execute format(
        'select count(*), coalesce(sum(pg_column_size(%s)), 0) from %s',
        case step.action when 'remove content' then 't.message' else 't' end, step.source
      ) into rows, bytes using step.before, step.stream, step.low, step.high;
      continue when rows = 0;
    end if;
    return next;
  end loop;
end
$$;
comment on function mail.retention_plan() is
  'What retention would remove now, and why: of partitions the estimated rows (null: unknown) and the bytes on disk, of all else the exact rows. Changes nothing.';

create function mail.drop_partition(parent text, day date) returns boolean
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
-- Less than deadlock_timeout: whoever waits for us and whom we wait for never gets as far as a deadlock.
set lock_timeout = '300ms'
as $$
declare
  partition text := drop_partition.parent || to_char(drop_partition.day, '_YYYYMMDD');
  key_column text := case when parent in ('message', 'message_content', 'message_prepared') then 'id' else 'message_id' end;
  low uuid := mail.uuid7_floor(drop_partition.day::timestamp at time zone 'utc');
  high uuid := mail.uuid7_floor((drop_partition.day + 1)::timestamp at time zone 'utc');
  began xid8;
  held uuid[];
begin
  -- One change of partitions at a time: mail.ensure_partitions locks the same tables.
  perform from mail.latch l where l.name = 'ensure_partitions' for update skip locked;
  if not found then
    return false;
  end if;
  began := pg_snapshot_xmin(pg_current_snapshot());
  -- Before the locks, as it reads the whole day.
  held := array(
    select m.id from mail.message m where m.id >= low and m.id < high and not mail.is_settled(m.status)
  );
  begin
    -- The parent first, as every statement does. From here on nobody else has the rows.
    execute format('lock table only mail.%I in access exclusive mode', parent);
    execute format('lock table mail.%I, mail.%I in access exclusive mode', partition, parent || '_default');
    -- What came back since then under an old id, or changed, wrote an event.
    held := array(
      select m.id
      from mail.message m
      where m.id >= low and m.id < high and not mail.is_settled(m.status)
        and (
          m.id = any (held)
          or m.id = any (array(
            select e.message_id from mail.event e where e.xid >= began and e.message_id >= low and e.message_id < high
          ))
        )
    );
    execute format('alter table mail.%I detach partition mail.%I', parent, partition);
    execute format('insert into mail.%I select * from mail.%I where %I = any ($1)', parent || '_default', partition, key_column)
    using held;
    execute format('drop table mail.%I', partition);
  exception
    when lock_not_available then
      return false;
  end;
  return true;
end
$$;
comment on function mail.drop_partition(text, date) is
  'Drops one day of a table; rows of messages that are not settled move to the default partition first. False when somebody uses it: then it is for another time.';

create function mail.delete_messages(ids uuid[], low uuid, high uuid) returns table (relation text, rows bigint)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  key_column text;
begin
  foreach relation in array array[
    'event', 'finder', 'provider_ref', 'feedback_seen', 'message_prepared', 'message_content', 'dead_letter', 'scheduled', 'message'
  ] loop
    key_column := case when relation in ('message', 'message_content', 'message_prepared') then 'id' else 'message_id' end;
    execute format('delete from mail.%I where %I = any ($1) and %I >= $2 and %I < $3', relation, key_column, key_column, key_column)
    using ids, low, high;
    get diagnostics rows = row_count;
    return next;
  end loop;
end
$$;
comment on function mail.delete_messages(uuid[], uuid, uuid) is
  'Deletes messages, whose rows the caller has locked, with all that hangs on them. Their ids are within the bounds, which tell the partitions.';

create function mail.retain_step(step mail.retention_step, most integer) returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  ids uuid[];
  removed bigint;
begin
  case step.action
    when 'delete rows', 'forget attachments' then
      execute format(
        'delete from mail.%I where ctid = any (array(select t.ctid from %s limit %s for update of t skip locked))',
        step.relation, step.source, most
      ) using step.before, step.stream, step.low, step.high;
      get diagnostics removed = row_count;
    when 'discard dead letters' then
      execute format(
        'select array(select t.message_id from %s order by t.died_at limit %s for update of t skip locked)', step.source, most
      ) into ids using step.before, step.stream, step.low, step.high;
      removed := mail.discard(ids, 'retention');
    when 'drop partition' then
      removed := case when mail.drop_partition(left(step.relation, -9), step.day) then 1 else 0 end;
    when 'remove content' then
      -- In the order of ids, as feedback locks what is settled: neither waits for the other in a circle.
      execute format('select array(select m.id from %s order by m.id limit %s for no key update of m)', step.source, most)
      into ids using step.before, step.stream, step.low, step.high;
      removed := mail.remove_content(ids);
    when 'delete messages' then
      execute format('select array(select t.id from %s order by t.id limit %s for update of t)', step.source, most)
      into ids using step.before, step.stream, step.low, step.high;
      select d.rows into removed from mail.delete_messages(ids, step.low, step.high) d where d.relation = 'message';
  end case;
  return removed;
end
$$;
comment on function mail.retain_step(mail.retention_step, integer) is 'Does one step of mail.retention_due, at most so many rows of it; returns how many, of partitions 1.';


create function mail.mark_retained(step mail.retention_step) returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  insert into mail.retention_mark (day, stream, what, is_done)
  select
    step.day, step.stream,
    case step.action when 'remove content' then 'content' when 'delete messages' then 'metadata' else 'attachments' end,
    -- What is settled later lets go of its content by itself, of the rest only when it is looked at again.
    step.action = 'remove content' or not exists (
      select from mail.message m
      where m.id >= step.low and m.id < step.high and m.stream = step.stream and not mail.is_settled(m.status)
    )
  where step.day is not null and step.action in ('remove content', 'delete messages', 'forget attachments')
  on conflict (day, stream, what) do update set is_done = excluded.is_done, looked_at = now()
$$;
comment on function mail.mark_retained(mail.retention_step) is 'Notes that nothing is left to do in this step, for good or for a day.';

create function mail.retain(most integer default 10000) returns table (
  action text,
  relation text,
  stream text,
  rows bigint,
  before timestamptz
)
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  step mail.retention_step;
  in_use text[] := '{}';
begin
  perform from mail.latch l where l.name = 'retain' for update skip locked;
  if not found then
    return;
  end if;
  for step in select * from mail.retention_due() loop
    continue when step.action = 'drop partition' and left(step.relation, -9) = any (in_use);
    rows := mail.retain_step(step, retain.most);
    if rows > 0 then
      action := step.action;
      relation := step.relation;
      stream := step.stream;
      before := step.before;
      return next;
      return;
    end if;
    if step.action = 'drop partition' then
      -- Its other days would be asked for in vain as well.
      in_use := in_use || left(step.relation, -9);
    end if;
    perform mail.mark_retained(step);
  end loop;
end
$$;
comment on function mail.retain(integer) is
  'Does the next of what mail.retention_plan shows, at most so many rows or one partition, and says what; no row when nothing is left. Each call is a transaction of its own: repeat it. The leading process does so every hour.';
