-- A database that went back in time (a backup, a snapshot, a copy, a failover that lost commits) believes that mail is still to
-- be sent which in truth went out. That is noticed from what the database says of itself, and then nothing is sent until a
-- person says what is to become of that mail. Acceptance and processing go on.

create table mail.lifeline (
  one boolean primary key default true
    constraint there_is_one_lifeline check (one),
  written_by xid8 not null,
  system_identifier text,
  database_oid oid not null,
  timeline text,
  postmaster_started_at timestamptz not null,
  beat bigint not null,
  seen_at timestamptz not null,
  doubted_start timestamptz,
  doubted_at timestamptz,
  doubted_seq bigint,
  testified integer[] not null default '{}',
  is_vouched boolean not null default false
) with (fillfactor = 50);
comment on table mail.lifeline is
  'What this database was at the latest look, about once a second while a process runs: where it comes from, and how far its time had gone. Written by mail.look_at_lifeline alone.';
comment on column mail.lifeline.written_by is
  'The transaction that wrote the row. A row that somebody else wrote (pg_restore, a subscription) has another xmin.';
comment on column mail.lifeline.beat is 'Grows by one with each look: a process that has seen a greater one knows that commits are missing.';
comment on column mail.lifeline.doubted_start is
  'A start of the server that nobody could explain yet: a crash, a promotion, or a restore. Until that is known nothing is claimed.';
comment on column mail.lifeline.testified is 'Workers that lived through it and miss nothing.';
comment on column mail.lifeline.is_vouched is 'A process that lived through it had seen one of the very last beats.';

create unlogged table mail.lifeline_canary (
  one boolean primary key default true
    constraint there_is_one_lifeline_canary check (one)
);
comment on table mail.lifeline_canary is
  'One row that is there after a clean restart, and gone after a crash, a promotion, or a restore of files.';

create table mail.hold_setting (
  one boolean primary key default true
    constraint there_is_one_hold_setting check (one),
  trusted_gap_s integer not null default 300
    constraint trusted_gap_is_not_negative check (trusted_gap_s >= 0),
  witness_wait_s integer not null default 5
    constraint witness_wait_is_0_to_60 check (witness_wait_s between 0 and 60)
);
comment on table mail.hold_setting is 'When a database is taken for one that went back in time.';
comment on column mail.hold_setting.trusted_gap_s is
  'A crash or a promotion after which nobody is there who remembers is trusted when the database was last seen at most so long ago.';
comment on column mail.hold_setting.witness_wait_s is
  'So long the workers that ran at the last look are waited for, to say whether they miss anything.';
insert into mail.hold_setting default values;

create table mail.sending_hold (
  id bigint generated always as identity primary key,
  held_at timestamptz not null default clock_timestamp(),
  held_by text not null default session_user,
  reason text not null,
  back_to timestamptz,
  boundary_seq bigint not null,
  released_at timestamptz,
  released_by text,
  released_as text
    constraint released_as_is_known check (released_as in ('send', 'set_aside', 'discard', 'nothing_waited')),
  messages bigint,
  constraint release_is_whole check (num_nonnulls(released_at, released_by, released_as) in (0, 3))
);
create unique index sending_hold_is_one on mail.sending_hold ((true)) where released_at is null;
comment on table mail.sending_hold is 'Times at which nothing was sent until a person said so, the latest one perhaps now; see mail.held.';
comment on column mail.sending_hold.back_to is 'The latest moment this database knows of; what happened after that, it forgot. Unset when a person held it.';
comment on column mail.sending_hold.boundary_seq is 'Mail up to this number waited when it began, and may have gone out already; later mail is new.';
comment on column mail.sending_hold.messages is 'How many were set aside or discarded.';

create view mail.lifeline_state as
select
  l.*,
  -- Of a transaction number the system column has the lower half.
  l.xmin::text::bigint = (l.written_by::text::numeric % 4294967296)::bigint as is_native,
  l.database_oid = (select d.oid from pg_database d where d.datname = current_database()) as is_here,
  l.postmaster_started_at = pg_postmaster_start_time() as is_same_start
from mail.lifeline l;
comment on view mail.lifeline_state is
  'The lifeline, and whether it was written here: by a transaction of this database, in it, since this start of its server.';

create function mail.sending_is_open() returns boolean
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  return not exists (select from mail.sending_hold h where h.released_at is null)
    and not exists (select from mail.lifeline_state l where not (l.is_native and l.is_here and l.is_same_start));
end
$$;
comment on function mail.sending_is_open() is
  'Whether anything may be claimed for sending now. False on a server that was started again until somebody has looked, so that no worker is quicker than the look.';

create function mail.server_identity(out system_identifier text, out timeline text)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  -- Each by itself: a managed server may keep one of them to itself, and the others still tell something.
  begin
    select c.system_identifier::text into system_identifier from pg_control_system() c;
  exception when insufficient_privilege or undefined_function or feature_not_supported then
    system_identifier := null;
  end;
  begin
    -- Of where it writes now: the latest checkpoint may be that of before a promotion.
    timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
  exception when insufficient_privilege or undefined_function or feature_not_supported then
    timeline := null;
  end;
end
$$;
comment on function mail.server_identity() is 'What a server says of itself: nulls for what it does not tell.';

create function mail.last_seq() returns bigint
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  select case when is_called then last_value else last_value - 1 end from mail.message_seq
$$;
comment on function mail.last_seq() is 'The latest number given to a message.';

create view mail.waiting_id as
select j.id
from pgboss.job j
where split_part(j.name, '.', 1) = 'dispatch' and j.state < 'completed'
union all
select given.id::uuid
from pgboss.job j
cross join lateral jsonb_array_elements_text(j.data -> 'ids') as given (id)
where split_part(j.name, '.', 1) = 'process' and j.state < 'completed'
union all
select s.message_id from mail.scheduled s;
comment on view mail.waiting_id is 'The messages that wait for something, or are being sent, found through their jobs.';

create view mail.held as
select
  h.held_at, h.held_by, h.reason, h.back_to, w.stream, w.status, w.is_at_risk,
  coalesce(w.messages, 0) as messages, w.oldest, w.newest
from mail.sending_hold h
left join lateral (
  select
    m.stream, m.status, k.is_at_risk, count(*) as messages, min(m.accepted_at) as oldest, max(m.accepted_at) as newest
  from (select distinct id from mail.waiting_id) i
  join mail.message m on m.id = i.id
  -- What is due only now was not due before it went back.
  cross join lateral (
    select m.seq <= h.boundary_seq and not (m.status = 'scheduled' and m.scheduled_at > h.held_at) as is_at_risk
  ) k
  where m.status in ('accepted', 'scheduled', 'queued', 'sending', 'deferred')
  group by m.stream, m.status, k.is_at_risk
) w on true
where h.released_at is null
order by w.is_at_risk desc, w.stream, w.status;
comment on view mail.held is
  'The hold that is on, and what waits because of it, by stream and status: is_at_risk is what may have gone out already. No row: mail is sent.';

create function mail.begin_hold(reason text, back_to timestamptz, boundary_seq bigint) returns boolean
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  insert into mail.sending_hold (reason, back_to, boundary_seq)
  values (begin_hold.reason, begin_hold.back_to, begin_hold.boundary_seq)
  on conflict ((true)) where released_at is null do nothing;
  if not found then
    return false;
  end if;
  -- Messages to alert targets that gather gather no more: what is told of the hold goes in one of its own.
  update mail.alert_delivery set state = 'sending' where state = 'gathering';
  return true;
end
$$;
comment on function mail.begin_hold(text, timestamptz, bigint) is 'Stops sending; false when it is stopped already.';

create function mail.hold(reason text) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  h mail.sending_hold;
begin
  if coalesce(btrim(hold.reason), '') = '' or length(hold.reason) > 500 then
    raise exception 'mail.hold needs a reason of at most 500 characters' using errcode = 'invalid_parameter_value',
      hint = 'For example select mail.hold(''restored from the backup of Monday'')';
  end if;
  perform mail.begin_hold(hold.reason, null, mail.last_seq());
  select * into h from mail.sending_hold where released_at is null;
  return format('nothing is sent since %s: %s. select * from mail.held shows what waits, mail.release ends it', h.held_at, h.reason);
end
$$;
comment on function mail.hold(text) is
  'Nothing is sent any more, and nothing told to webhooks, until mail.release; mail is accepted and processed. What is in flight ends. Safe to repeat: the first reason stays. Example: mail.hold(''restored from a backup'')';

create function mail.is_worker_gone(number integer) returns boolean
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  for attempt in 1..2 loop
    -- The lock that the session of each worker holds while it lives (src/db/session.ts); anybody else's says nothing.
    if exists (
      select
      from mail.worker w
      join pg_locks l on l.pid = w.backend_pid and l.objid = w.lock_key::oid
      where w.number = is_worker_gone.number
        and l.locktype = 'advisory' and l.granted and l.classid = 1397506885 and l.objsubid = 2
        and l.database = (select oid from pg_database where datname = current_database())
    ) then
      return false;
    end if;
    -- One that comes back changes its row first, and waits for us.
    perform from mail.worker w where w.number = is_worker_gone.number for update;
  end loop;
  return true;
end
$$;
comment on function mail.is_worker_gone(integer) is 'True when its session does not hold the lock of this worker; it cannot come back until our transaction ends.';

create function mail.set_aside(h mail.sending_hold, as_status text) returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  gone integer[];
  taken uuid[];
begin
  select coalesce(array_agg(w.number), '{}') into gone
  from (select distinct m.worker as number from mail.waiting_id i join mail.message m on m.id = i.id where m.status = 'sending') w
  where mail.is_worker_gone(w.number);
  with picked as materialized (
    select m.id, m.status
    from (select distinct id from mail.waiting_id) i
    join mail.message m on m.id = i.id
    where m.seq <= h.boundary_seq and (
      m.status in ('accepted', 'queued', 'deferred')
      or (m.status = 'scheduled' and m.scheduled_at <= h.held_at)
      or (m.status = 'sending' and m.worker = any (gone))
    )
    order by m.id
    for update of m
  ), changed as (
    update mail.message m
    set status = as_status, worker = null, next_attempt_at = null, last_error = 'held'
    from picked
    where m.id = picked.id
    returning m.id, picked.status as was
  ), happened as (
    insert into mail.event (message_id, type, detail)
    select id, as_status, json_build_object('by', session_user, 'was', was, 'code', 'held', 'reason', h.reason) from changed
  ), unscheduled as (
    delete from mail.scheduled s using changed where s.message_id = changed.id
  )
  select coalesce(array_agg(id), '{}') into taken from changed;
  -- A job in somebody's hand is left to him: he finds that its message may not be sent.
  with job as (
    select j.name, j.id
    from pgboss.job j
    where split_part(j.name, '.', 1) = 'dispatch' and j.id = any (taken)
    for update skip locked
  )
  delete from pgboss.job j using job where j.name = job.name and j.id = job.id;
  if as_status = 'canceled' then
    perform mail.remove_content(taken);
  end if;
  return cardinality(taken);
end
$$;
comment on function mail.set_aside(mail.sending_hold, text) is
  'Gives everything that waited when a hold began another status: unknown or canceled; returns how many that were.';

create function mail.release(what text) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  h mail.sending_hold;
  moved bigint;
begin
  if what is null or what not in ('send', 'set_aside', 'discard') then
    raise exception 'release as send, set_aside or discard, not %', coalesce(what, 'null')
      using errcode = 'invalid_parameter_value',
        hint = 'send: everything that waits goes out, again if it did before. set_aside: what waited becomes unknown, and new mail goes out. discard: what waited is canceled.';
  end if;
  select * into h from mail.sending_hold where released_at is null for update;
  if not found then
    return 'nothing is held';
  end if;
  if what <> 'send' then
    if exists (select from mail.outbox o where o.seq <= h.boundary_seq) then
      raise exception 'mail that waited is still at the door'
        using errcode = 'object_not_in_prerequisite_state', hint = 'A running process moves it within a second, and sends nothing: start one, and repeat.';
    end if;
    moved := mail.set_aside(h, case what when 'set_aside' then 'unknown' else 'canceled' end);
  end if;
  update mail.sending_hold
  set released_at = clock_timestamp(), released_by = session_user, released_as = what, messages = moved
  where id = h.id;
  return case what
    when 'send' then 'mail is sent again: everything that waited goes out'
    when 'set_aside' then format('mail is sent again; %s messages that waited are unknown now: settle them with mail.settle_unknown', moved)
    else format('mail is sent again; %s messages that waited are canceled', moved)
  end;
end
$$;
comment on function mail.release(text) is
  'Ends a hold. send: everything that waits goes out. set_aside: what waited when it began becomes unknown, everything newer goes out. discard: what waited is canceled. Safe to repeat. Example: mail.release(''set_aside'')';

create function mail.lost_claims(remembered json) returns integer
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  -- A later claim of the same message has a later moment; none, or an earlier one, was undone.
  select count(*)::integer
  from json_to_recordset(remembered) as r (id uuid, "claimedAt" timestamptz)
  left join mail.message m on m.id = r.id
  where coalesce(m.claimed_at < r."claimedAt", true)
$$;
comment on function mail.lost_claims(json) is 'How many of these claims, each of which was committed, this database knows nothing of.';

create function mail.accept_lifeline(at_least bigint) returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  server record := mail.server_identity();
  now_beat bigint;
begin
  insert into mail.lifeline as l
    (written_by, system_identifier, database_oid, timeline, postmaster_started_at, beat, seen_at)
  select
    pg_current_xact_id(), server.system_identifier, d.oid, server.timeline, pg_postmaster_start_time(), coalesce(at_least, 0) + 1, clock_timestamp()
  from pg_database d
  where d.datname = current_database()
  on conflict (one) do update set
    written_by = excluded.written_by,
    system_identifier = excluded.system_identifier,
    database_oid = excluded.database_oid,
    timeline = excluded.timeline,
    postmaster_started_at = excluded.postmaster_started_at,
    beat = greatest(l.beat + 1, excluded.beat),
    seen_at = excluded.seen_at,
    doubted_start = null, doubted_at = null, doubted_seq = null, testified = '{}', is_vouched = false
  returning l.beat into now_beat;
  insert into mail.lifeline_canary default values on conflict do nothing;
  return now_beat;
end
$$;
comment on function mail.accept_lifeline(bigint) is
  'Writes down that this is the database that is looked after from now on. Its beat goes on above what any process remembers, so that each is told of a loss once.';

create function mail.doubt_lifeline(l mail.lifeline, worker integer, remembered_beat bigint) returns text
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  setting mail.hold_setting;
  -- A few looks may have passed since its own; more, and it knows nothing of the end.
  knows_the_end boolean := coalesce(remembered_beat between l.beat - 5 and l.beat, false);
begin
  select * into setting from mail.hold_setting;
  if l.doubted_start is distinct from pg_postmaster_start_time() then
    l.doubted_start := pg_postmaster_start_time();
    l.doubted_at := clock_timestamp();
    l.doubted_seq := mail.last_seq();
    l.testified := '{}';
    l.is_vouched := false;
  end if;
  l.is_vouched := l.is_vouched or knows_the_end;
  if knows_the_end and worker is not null then
    l.testified := l.testified || worker;
  end if;
  update mail.lifeline
  set written_by = pg_current_xact_id(), doubted_start = l.doubted_start, doubted_at = l.doubted_at, doubted_seq = l.doubted_seq,
    testified = l.testified, is_vouched = l.is_vouched;
  if l.doubted_at > clock_timestamp() - make_interval(secs => setting.witness_wait_s)
    -- Those that ran at the last look: their heartbeat comes every five seconds.
    and exists (select from mail.worker w where w.seen_at > l.seen_at - interval '15 seconds' and w.seen_at < l.doubted_at and w.number <> all (l.testified))
  then
    return 'wait';
  end if;
  if l.is_vouched or l.seen_at >= clock_timestamp() - make_interval(secs => setting.trusted_gap_s) then
    return null;
  end if;
  return format(
    'its files come from %s or earlier: nobody was here since then who remembers, and it was not shut down cleanly (restored from a backup or a snapshot?)',
    date_trunc('second', l.seen_at)
  );
end
$$;
comment on function mail.doubt_lifeline(mail.lifeline, integer, bigint) is
  'Judges a start after a crash, a promotion or a restore of files: wait while witnesses may come, null when it is trusted, otherwise why not.';

create function mail.look_at_lifeline(
  worker integer,
  remembered_start timestamptz,
  remembered_beat bigint,
  remembered_claims json,
  out start timestamptz,
  out beat bigint,
  out held_because text
)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  s mail.lifeline_state;
  l mail.lifeline;
  server record;
  found_out text;
  has_started_anew boolean;
begin
  -- A standby that is not promoted yet: whoever asks tries again.
  if pg_is_in_recovery() then
    return;
  end if;
  start := pg_postmaster_start_time();
  has_started_anew := remembered_start <> start;
  select * into s from mail.lifeline_state;
  if s.is_native and s.is_here and s.is_same_start and not coalesce(has_started_anew or remembered_beat > s.beat, false) then
    beat := coalesce(mail.beat_lifeline(s.seen_at), s.beat);
    return;
  end if;

  -- One judge at a time; whoever waited finds the verdict.
  perform from mail.latch where name = 'lifeline' for update;
  select * into s from mail.lifeline_state;
  if s.one is null then
    beat := mail.accept_lifeline(remembered_beat);
    return;
  end if;
  select * into l from mail.lifeline;
  server := mail.server_identity();
  found_out := case
    when not s.is_native then 'its rows were loaded from a dump or by replication'
    when not s.is_here then 'it is a copy of another database of this server'
    when server.system_identifier <> l.system_identifier then 'it was on another server before (a restore, a copy or an upgrade)'
    when remembered_beat > l.beat then
      format('commits of the last moments are missing: a process that lived through it saw %s looks later than this database knows', remembered_beat - l.beat)
    when has_started_anew and mail.lost_claims(remembered_claims) > 0 then
      'commits of the last moments are missing: a worker that lived through it claimed mail of which this database knows nothing'
  end;
  if found_out is null and not s.is_same_start
    and not (l.timeline is not distinct from server.timeline and exists (select from mail.lifeline_canary)) then
    found_out := mail.doubt_lifeline(l, worker, remembered_beat);
    if found_out = 'wait' then
      return;
    end if;
  end if;
  if found_out is not null then
    held_because := mail.hold_at_risk(found_out, l);
  end if;
  beat := mail.accept_lifeline(remembered_beat);
end
$$;
comment on function mail.look_at_lifeline(integer, timestamptz, bigint, json) is
  'One look, about once a second in each process: is this still the database that was looked after so far? Given what the process remembers: its worker''s number, the start of the server and the beat it saw last, the claims it knows to be committed since then. Returns what to remember, and why sending was stopped if this look did so. No beat: it is not known yet, and nothing may be sent.';

create function mail.beat_lifeline(seen_at timestamptz) returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  next_beat bigint;
begin
  -- Whoever comes first beats for all: a write a second, however many processes there are.
  if beat_lifeline.seen_at > clock_timestamp() - interval '900 milliseconds' then
    return null;
  end if;
  update mail.lifeline l
  set written_by = pg_current_xact_id(), beat = l.beat + 1, seen_at = clock_timestamp()
  where l.one = (select b.one from mail.lifeline b where b.one for update skip locked)
    and l.seen_at = beat_lifeline.seen_at
  returning l.beat into next_beat;
  -- After a crash of one backend the server is the same, and its unlogged tables are empty.
  if not exists (select from mail.lifeline_canary) then
    insert into mail.lifeline_canary default values on conflict do nothing;
  end if;
  return next_beat;
end
$$;
comment on function mail.beat_lifeline(timestamptz) is 'Notes that time goes on here, unless another process just did.';

create function mail.disown_work(since timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  ghost integer;
begin
  insert into mail.worker (name) values ('before the database went back in time') returning number into ghost;
  update mail.message m
  set worker = ghost
  from pgboss.job j
  where split_part(j.name, '.', 1) = 'dispatch' and j.state = 'active' and m.id = j.id
    and m.status = 'sending' and m.claimed_at < disown_work.since;
  update mail.claim set worker = ghost where claimed_at < disown_work.since;
end
$$;
comment on function mail.disown_work(timestamptz) is
  'Gives what workers had in hand before that moment to one that does not live, so that it is rescued: a worker that lived through it has long ended that work, and would keep it for ever.';

create function mail.hold_at_risk(reason text, l mail.lifeline) returns text
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  if exists (select from mail.waiting_id) or exists (select from mail.outbox) then
    -- Of a start that nobody has looked at yet all that is claimed is from before; later only what the clock says.
    perform mail.disown_work(case when l.postmaster_started_at = pg_postmaster_start_time() then pg_postmaster_start_time() else 'infinity' end);
    perform mail.begin_hold(hold_at_risk.reason, l.seen_at, coalesce(l.doubted_seq, mail.last_seq()));
    return hold_at_risk.reason;
  end if;
  -- There is no mail that could be sent twice: noted, and that is all.
  insert into mail.sending_hold (reason, back_to, boundary_seq, released_at, released_by, released_as)
  values (hold_at_risk.reason, l.seen_at, mail.last_seq(), clock_timestamp(), session_user, 'nothing_waited');
  return null;
end
$$;
comment on function mail.hold_at_risk(text, mail.lifeline) is
  'Holds a database that went back in time, if any mail waits in it; returns the reason when it does.';
