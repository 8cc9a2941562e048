-- Who works, what they hold, what passes through, and how a crash of Postgres is noticed.

create table mail.worker (
  number integer generated always as identity primary key,
  name text not null,
  version text not null default '',
  backend_pid integer,
  lock_key integer not null default (floor(random() * 4294967296) - 2147483648)::integer,
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
  free_since timestamptz
);
comment on table mail.worker is
  'Worker processes. The session of each holds an advisory lock on lock_key while it lives: one that does not is of a worker that died.';
comment on column mail.worker.backend_pid is
  'The session. Another one that holds the lock, as anybody who can connect may, is no sign of life.';
comment on column mail.worker.free_since is
  'When its lock was first found free, and has not been taken since: whoever looks after the grace rescues what it held.';
comment on column mail.worker.lock_key is 'Random: a lock that nobody can take before the worker does.';
comment on column mail.worker.name is 'Host and process id.';
comment on column mail.worker.version is 'Of Sluice, as the process runs it.';

create table mail.claim (
  queue text not null,
  job_id uuid not null,
  worker integer not null,
  claimed_at timestamptz not null default now(),
  lease_until timestamptz,
  primary key (queue, job_id)
);
comment on table mail.claim is
  'Jobs of processing and of webhooks being worked on, by worker: what is given back when it dies. (A message being sent names its worker itself.)';

comment on column mail.claim.lease_until is
  'Of a job that was stored for a worker as claimed: it goes back to its queue if it is not done by then, since the worker may never have heard of it.';

create table mail.throughput (
  bucket_at timestamptz not null,
  process uuid not null,
  stage text not null,
  stream text not null,
  provider text not null default '',
  came_in bigint not null default 0,
  went_out bigint not null default 0,
  primary key (bucket_at, process, stage, stream, provider)
);
comment on table mail.throughput is
  'Messages into and out of each stage per ten seconds and process, written once a second: rates without counting rows.';

create unlogged table mail.intake_canary (
  epoch uuid primary key
);
comment on table mail.intake_canary is 'One row that vanishes when a crash of Postgres empties the unlogged tables.';

create table mail.intake_watch (
  one boolean primary key default true
    constraint there_is_one_row check (one),
  epoch uuid not null,
  checked_at timestamptz not null,
  safe_seq bigint not null,
  next_safe_seq bigint not null,
  waiting int8multirange not null
);
comment on table mail.intake_watch is 'What the intake held at the latest look: the basis for saying what a crash took.';
comment on column mail.intake_watch.safe_seq is
  'Everything up to here had left the intake two looks ago. (A transaction that appends and then stays open longer than that is beyond this bound.)';
comment on column mail.intake_watch.waiting is
  'Sequence numbers seen waiting, of rows without an idempotency key: those leave only by becoming messages.';

create table mail.intake_loss (
  id bigint generated always as identity primary key,
  noticed_at timestamptz not null default clock_timestamp(),
  intact_at timestamptz not null,
  at_least bigint not null,
  at_most bigint not null,
  constraint range_is_ordered check (at_least <= at_most)
);
comment on table mail.intake_loss is
  'Times the unlogged intake was emptied by a crash of Postgres, and how many buffered messages that took: a range, since sequences skip.';
comment on column mail.intake_loss.intact_at is 'The last look at which it was intact: the crash came after.';

create function mail.watch_intake() returns setof mail.intake_loss
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  seen mail.intake_watch;
  intact boolean;
  last_seq bigint;
  moved int8multirange;
  fewest bigint;
  most bigint;
begin
  -- One look at a time over all processes; whoever comes second finds nothing to do.
  perform from mail.latch l where l.name = 'watch_intake' for update skip locked;
  if not found then
    return;
  end if;
  select * into seen from mail.intake_watch;
  select exists (select from mail.intake_canary where epoch = seen.epoch) into intact;
  select case when is_called then last_value else last_value - 1 end into last_seq from mail.message_seq;

  if seen.epoch is not null and not intact then
    select coalesce(range_agg(int8range(seq, seq + 1)), '{}') into moved
    from (
      select seq from mail.message
      where id >= mail.uuid7_floor(seen.checked_at - interval '1 hour') and seq > seen.safe_seq
      union all
      select seq from mail.outbox where seq > seen.safe_seq
      union all
      select seq from mail.intake where seq > seen.safe_seq
    ) present;
    select coalesce(sum(upper(r) - lower(r)), 0) into fewest from unnest(seen.waiting - moved) r;
    select coalesce(sum(upper(r) - lower(r)), 0) into most
    from unnest(int8multirange(int8range(seen.safe_seq + 1, greatest(last_seq, seen.safe_seq) + 1)) - moved) r;
    return query
      insert into mail.intake_loss (intact_at, at_least, at_most)
      values (seen.checked_at, fewest, greatest(fewest, most))
      returning *;
  end if;

  if seen.epoch is null or not intact then
    delete from mail.intake_canary;
    insert into mail.intake_canary (epoch) values (gen_random_uuid()) returning epoch into seen.epoch;
    seen.next_safe_seq := null;
  end if;

  insert into mail.intake_watch as w (epoch, checked_at, safe_seq, next_safe_seq, waiting)
  select
    seen.epoch,
    clock_timestamp(),
    -- Never above what waits now, or a row seen waiting and moved since would count as lost.
    least(coalesce(seen.next_safe_seq, last_seq), coalesce(min(waiting.seq) - 1, last_seq)),
    coalesce(min(waiting.seq) - 1, last_seq),
    coalesce(
      range_agg(int8range(waiting.seq, waiting.seq + 1)) filter (where waiting.idempotency_key is null),
      '{}'
    )
  from generate_series(0, 9) p
  -- Per priority, as the index has it: a look stays cheap however much is waiting.
  cross join lateral (
    select seq, idempotency_key
    from mail.intake
    -- What is below had left, and its dead index entries are not read again while an old transaction keeps them.
    where coalesce(priority, 5::smallint) = p and seq > coalesce(seen.safe_seq, 0)
    order by seq
    limit 1000
  ) waiting
  on conflict (one) do update set
    epoch = excluded.epoch,
    checked_at = excluded.checked_at,
    safe_seq = excluded.safe_seq,
    next_safe_seq = excluded.next_safe_seq,
    waiting = excluded.waiting;
end
$$;
comment on function mail.watch_intake() is
  'One look at the unlogged intake; returns a row when a crash emptied it since the last. Called once a second by the workers.';
