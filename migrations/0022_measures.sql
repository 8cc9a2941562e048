-- What the service measures of itself, so that nobody has to count: what happened per ten seconds, how much
-- waits, and the history of both. And who of all processes does the work that one should do.

create table mail.leader (
  one boolean primary key default true
    constraint there_is_one_row check (one),
  process uuid not null,
  name text not null,
  since timestamptz not null default clock_timestamp(),
  renewed_at timestamptz not null default clock_timestamp()
) with (fillfactor = 10);
comment on table mail.leader is
  'The process that does the upkeep that one process should do. Without a renewal for ten seconds the next one takes over.';

create function mail.lead(process uuid, name text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  held mail.leader;
begin
  select * into held from mail.leader;
  if held.process = lead.process and held.renewed_at > clock_timestamp() - interval '3 seconds' then
    return true;
  end if;
  if held.process <> lead.process and held.renewed_at > clock_timestamp() - interval '10 seconds' then
    return false;
  end if;
  -- One candidate at a time; who comes second asks again in a second.
  perform from mail.latch l where l.name = 'lead' for update skip locked;
  if not found then
    return false;
  end if;
  insert into mail.leader as l (process, name) values (lead.process, lead.name)
  on conflict (one) do update
  set process = excluded.process,
    name = excluded.name,
    since = case when l.process = excluded.process then l.since else excluded.since end,
    renewed_at = excluded.renewed_at
  -- Read anew under the lock: another may have become the leader since the first look.
  where l.process = excluded.process or l.renewed_at <= clock_timestamp() - interval '10 seconds';
  return found;
end
$$;
comment on function mail.lead(uuid, text) is
  'True for the process that leads, which renews it by asking; another becomes the leader when that one has not asked for ten seconds. What a leader does must be safe to be done twice: a process that was stopped finds out at its next question.';

create function mail.stop_leading(process uuid) returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  delete from mail.leader l where l.process = stop_leading.process
$$;
comment on function mail.stop_leading(uuid) is 'For a process that ends: the next leader need not wait.';

create table mail.tally (
  bucket_at timestamptz not null,
  process uuid not null,
  kind text not null
    constraint kind_is_known check (kind in (
      'accepted', 'processed', 'sent', 'deferred', 'retried', 'unknown', 'dead', 'suppressed', 'request', 'fault'
    )),
  stream text not null,
  provider text not null,
  count bigint not null,
  primary key (bucket_at, kind, stream, provider, process)
);
comment on table mail.tally is
  'What happened, per ten seconds and process, written once a second. The provider is empty where none is chosen yet.';
comment on column mail.tally.kind is
  'Of messages, once each: accepted, processed, sent, unknown, dead, suppressed. Of attempts: deferred, and retried (any but a message''s first). Of requests to a provider: request, and fault when it failed for the provider''s own reasons.';

create table mail.tally_time (
  bucket_at timestamptz not null,
  process uuid not null,
  kind text not null
    constraint kind_is_known check (kind in ('time_to_send', 'provider_latency')),
  stream text not null,
  provider text not null,
  bucket smallint not null,
  count bigint not null,
  seconds double precision not null,
  primary key (bucket_at, kind, stream, provider, process, bucket)
);
comment on table mail.tally_time is
  'How long things took, in the buckets of mail.time_bounds(): from acceptance (or the moment it was scheduled for, or its send window opened) to the provider''s acceptance, and a request to a provider.';
comment on column mail.tally_time.seconds is 'The sum.';

create table mail.depth (
  stage text not null,
  stream text not null,
  provider text not null,
  ready bigint not null,
  deferred bigint not null,
  in_flight bigint not null,
  oldest_at timestamptz,
  measured_at timestamptz not null,
  counted_ready bigint not null,
  counted_deferred bigint not null default 0,
  counted_net bigint not null,
  counted_from timestamptz not null,
  primary key (stage, stream, provider)
) with (fillfactor = 50);
comment on table mail.depth is
  'How much waits where, written by the leader once a second. mail.queue counts; this is cheap however much is waiting: between counts, which are rarer the longer they take, what came in and went out is added.';
comment on column mail.depth.measured_at is 'When it was written; older than some seconds means that no process runs.';
comment on column mail.depth.counted_net is 'What came in less what went out since counted_from, as of the latest count.';

create table mail.sample (
  at timestamptz not null,
  stage text not null,
  stream text not null,
  provider text not null,
  ready bigint not null,
  deferred bigint not null,
  in_flight bigint not null,
  oldest_age_s double precision,
  primary key (at, stage, stream, provider)
);
comment on table mail.sample is 'mail.depth every ten seconds, kept for three hours.';

create function mail.net_flow(since timestamptz)
returns table (stage text, stream text, provider text, net bigint)
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select t.stage, t.stream, t.provider, sum(t.came_in - t.went_out)::bigint
  from mail.throughput t
  where t.bucket_at >= net_flow.since
  group by t.stage, t.stream, t.provider
$$;
comment on function mail.net_flow(timestamptz) is 'Messages that came into each queue less those that left it, since then.';

create function mail.count_depth() returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  with since as materialized (
    select date_bin('10 seconds', clock_timestamp(), 'epoch') as at
  ), counted as materialized (
    select
      stage, stream, provider, q.ready, q.deferred, q.in_flight, now() - q.oldest_age as oldest_at,
      coalesce(f.net, 0) as net
    from mail.queue_depth q
    left join (select f.* from since cross join lateral mail.net_flow(since.at) f) f using (stage, stream, provider)
  ), gone as (
    delete from mail.depth d
    where not exists (
      select from counted c where (c.stage, c.stream, c.provider) = (d.stage, d.stream, d.provider)
    )
  )
  insert into mail.depth as d (
    stage, stream, provider, ready, deferred, in_flight, oldest_at, measured_at, counted_ready, counted_deferred, counted_net,
    counted_from
  )
  select
    c.stage, c.stream, c.provider, c.ready, c.deferred, c.in_flight, c.oldest_at, clock_timestamp(), c.ready, c.deferred, c.net,
    since.at
  from counted c
  cross join since
  on conflict (stage, stream, provider) do update
  set ready = excluded.ready, deferred = excluded.deferred, in_flight = excluded.in_flight, oldest_at = excluded.oldest_at,
    measured_at = excluded.measured_at, counted_ready = excluded.counted_ready, counted_deferred = excluded.counted_deferred,
    counted_net = excluded.counted_net, counted_from = excluded.counted_from
$$;
comment on function mail.count_depth() is 'Counts what waits, as mail.queue does, and writes it to mail.depth. Takes longer the more is waiting.';

create function mail.oldest_waiting() returns table (stage text, stream text, provider text, oldest_at timestamptz)
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
-- The first entry of an index for each priority and queue, never a scan, whatever the planner believes of the tables.
set enable_sort = off
set enable_bitmapscan = off
set enable_seqscan = off
as $$
begin
  return query select
    case kind when 'process' then 'processing' else kind end,
    case kind when 'process' then split_part(q.name, '.', 2) else split_part(q.name, '.', 3) end,
    case kind when 'process' then '' else split_part(q.name, '.', 2) end,
    -- Nor was it as long as the window was closed.
    greatest(min(first.at), case kind when 'dispatch' then mail.window_opened(split_part(q.name, '.', 3), now()) end)
  from pgboss.queue q
  cross join lateral split_part(q.name, '.', 1) kind
  cross join generate_series(0, 9) p
  cross join lateral (
    select greatest(j.created_on, j.start_after) as at
    from pgboss.job j
    where j.name = q.name and j.priority = p and j.state < 'active' and not j.blocked and j.start_after <= now()
    order by j.created_on
    limit 1
  ) first
  where kind = 'process'
    -- What waits for a send window is not waiting for us.
    or kind = 'dispatch' and mail.window_opens(split_part(q.name, '.', 3), now()) is null
  group by q.name, kind;
end
$$;
comment on function mail.oldest_waiting() is 'Since when the oldest job of each queue that could be taken now is waiting.';

create function mail.oldest_before_queues() returns table (stage text, oldest_at timestamptz, most bigint)
language plpgsql stable security definer
set search_path = pg_catalog, mail, pg_temp
set plan_cache_mode = force_custom_plan
set enable_sort = off
set enable_bitmapscan = off
set enable_seqscan = off
as $$
begin
  -- No more wait at the doors than numbers were given since the first of them.
  return query
    select 'intake', min(least(first.received_at, clock_timestamp())), (select s.last_value from mail.message_seq s) - min(first.seq) + 1
    from generate_series(0, 9) p
    cross join lateral (
      (select i.seq, i.received_at from mail.intake i where coalesce(i.priority, 5::smallint) = p order by i.seq limit 1)
      union all
      (select o.seq, o.received_at from mail.outbox o where coalesce(o.priority, 5::smallint) = p order by o.seq limit 1)
    ) first
    having count(*) > 0;
  return query
    select 'scheduled', min(first.due_at), null::bigint
    from generate_series(0, 9) p
    cross join lateral (select s.due_at from mail.scheduled s where s.priority = p order by s.due_at limit 1) first
    where first.due_at <= now()
    having count(*) > 0;
end
$$;
comment on function mail.oldest_before_queues() is
  'Since when the oldest message waits at the doors and, of those that are due, in the schedule, and how many there are at most; no row where none does. Twenty steps in indexes.';

create function mail.estimate_depth() returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  -- A queue that the latest count did not find held nothing then.
  insert into mail.depth (
    stage, stream, provider, ready, deferred, in_flight, measured_at, counted_ready, counted_net, counted_from
  )
  select distinct t.stage, t.stream, t.provider, 0, 0, 0, clock_timestamp(), 0, 0, latest.counted_from
  from (
    select coalesce(max(counted_from), date_bin('10 seconds', clock_timestamp(), 'epoch')) as counted_from from mail.depth
  ) latest
  join mail.throughput t on t.bucket_at >= latest.counted_from
  on conflict do nothing;

  with flow as materialized (
    select d.stage, d.stream, d.provider, sum(t.came_in - t.went_out) as net
    from mail.depth d
    join mail.throughput t
      on (t.stage, t.stream, t.provider) = (d.stage, d.stream, d.provider) and t.bucket_at >= d.counted_from
    group by d.stage, d.stream, d.provider
  ), waiting as materialized (
    select * from mail.oldest_waiting()
  ), head as materialized (
    select * from mail.oldest_before_queues()
  ), estimate as (
    select
      d.stage, d.stream, d.provider, w.oldest_at as oldest_job, h.stage is not null as is_waiting, h.oldest_at as oldest_head,
      d.counted_ready + d.counted_deferred + c.net as everything,
      greatest(0, case d.stage
        -- What is moved came in and went out at once, so its flow says nothing of what is left.
        when 'intake' then case when h.stage is not null then least(d.counted_ready, h.most) end
        -- What comes in is not due; what goes out was.
        when 'scheduled' then case when h.stage is not null then d.counted_ready + least(0, c.net) end
        else d.counted_ready + c.net
      end) as ready
    from mail.depth d
    left join flow f using (stage, stream, provider)
    left join waiting w using (stage, stream, provider)
    left join head h on h.stage = d.stage
    cross join lateral (select coalesce(f.net, 0) - d.counted_net as net) c
  )
  update mail.depth d
  set ready = e.ready,
    deferred = case d.stage when 'scheduled' then greatest(0, e.everything - e.ready) else d.deferred end,
    -- No stream's is older than the oldest of all.
    oldest_at = case
      when d.stage not in ('intake', 'scheduled') then e.oldest_job
      when e.is_waiting and d.oldest_at is not null then greatest(d.oldest_at, e.oldest_head)
    end,
    measured_at = clock_timestamp()
  from estimate e
  where (e.stage, e.stream, e.provider) = (d.stage, d.stream, d.provider)
$$;
comment on function mail.estimate_depth() is 'Brings mail.depth up to date without counting: the latest count, and what came in and went out since.';

create function mail.take_sample() returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  insert into mail.sample (at, stage, stream, provider, ready, deferred, in_flight, oldest_age_s)
  select
    date_bin('10 seconds', clock_timestamp(), 'epoch'), stage, stream, provider, ready, deferred, in_flight,
    greatest(0, extract(epoch from clock_timestamp() - oldest_at))
  from mail.depth
  on conflict do nothing
$$;
comment on function mail.take_sample() is 'Adds mail.depth as it is to its history.';

create view mail.growth as
select
  d.stage, d.stream, d.provider, d.ready + d.deferred + d.in_flight as waiting,
  round(
    (d.ready + d.deferred + d.in_flight - coalesce(s.ready + s.deferred + s.in_flight, 0))
      / extract(epoch from d.measured_at - moment.at),
    2
  ) as growth_per_s
from mail.depth d
-- The moment is that of all samples: a queue that was empty then has none of its own.
cross join lateral (
  select max(at) as at
  from mail.sample
  where at between d.measured_at - interval '90 seconds' and d.measured_at - interval '60 seconds'
) moment
left join mail.sample s
  on (s.at, s.stage, s.stream, s.provider) = (moment.at, d.stage, d.stream, d.provider);
comment on view mail.growth is
  'By how many messages a second what waits grew over the last minute, per stage, stream and provider. Negative when it shrinks; null before there was a minute to look back on.';

create view mail.flow as
with minute as materialized (
  -- Whole buckets: the present one is still being filled.
  select date_bin('10 seconds', clock_timestamp(), 'epoch') as until
), happened as (
  select
    stream, provider,
    sum(count) filter (where kind = 'accepted') / 60.0 as accepted_per_s,
    sum(count) filter (where kind = 'processed') / 60.0 as processed_per_s,
    sum(count) filter (where kind = 'sent') / 60.0 as sent_per_s,
    sum(count) filter (where kind = 'deferred') / 60.0 as deferred_per_s,
    sum(count) filter (where kind = 'retried') / 60.0 as retried_per_s,
    sum(count) filter (where kind = 'unknown') / 60.0 as unknown_per_s,
    sum(count) filter (where kind = 'dead') / 60.0 as dead_per_s,
    sum(count) filter (where kind = 'suppressed') / 60.0 as suppressed_per_s,
    sum(count) filter (where kind = 'request') / 60.0 as requests_per_s,
    sum(count) filter (where kind = 'fault') / 60.0 as faults_per_s
  from mail.tally, minute
  where bucket_at >= minute.until - interval '1 minute' and bucket_at < minute.until
  group by stream, provider
), took as (
  select
    stream, provider,
    mail.time_at(0.5, array_agg(bucket) filter (where kind = 'time_to_send'), array_agg(messages) filter (where kind = 'time_to_send')) as send_p50_s,
    mail.time_at(0.95, array_agg(bucket) filter (where kind = 'time_to_send'), array_agg(messages) filter (where kind = 'time_to_send')) as send_p95_s,
    mail.time_at(0.99, array_agg(bucket) filter (where kind = 'time_to_send'), array_agg(messages) filter (where kind = 'time_to_send')) as send_p99_s,
    mail.time_at(0.5, array_agg(bucket) filter (where kind = 'provider_latency'), array_agg(messages) filter (where kind = 'provider_latency')) as latency_p50_s,
    mail.time_at(0.95, array_agg(bucket) filter (where kind = 'provider_latency'), array_agg(messages) filter (where kind = 'provider_latency')) as latency_p95_s,
    mail.time_at(0.99, array_agg(bucket) filter (where kind = 'provider_latency'), array_agg(messages) filter (where kind = 'provider_latency')) as latency_p99_s
  from (
    select stream, provider, kind, bucket, sum(count) as messages
    from mail.tally_time, minute
    where bucket_at >= minute.until - interval '1 minute' and bucket_at < minute.until
    group by stream, provider, kind, bucket
  ) b
  group by stream, provider
)
select
  stream,
  provider,
  round(coalesce(accepted_per_s, 0), 2) as accepted_per_s,
  round(coalesce(processed_per_s, 0), 2) as processed_per_s,
  round(coalesce(sent_per_s, 0), 2) as sent_per_s,
  round(coalesce(deferred_per_s, 0), 2) as deferred_per_s,
  round(coalesce(retried_per_s, 0), 2) as retried_per_s,
  round(coalesce(unknown_per_s, 0), 2) as unknown_per_s,
  round(coalesce(dead_per_s, 0), 2) as dead_per_s,
  round(coalesce(suppressed_per_s, 0), 2) as suppressed_per_s,
  round(coalesce(requests_per_s, 0), 2) as requests_per_s,
  round(coalesce(faults_per_s, 0), 2) as faults_per_s,
  round(
    (coalesce(deferred_per_s, 0) + coalesce(unknown_per_s, 0) + coalesce(dead_per_s, 0))
      / nullif(coalesce(sent_per_s, 0) + coalesce(deferred_per_s, 0) + coalesce(unknown_per_s, 0) + coalesce(dead_per_s, 0), 0),
    4
  ) as error_rate,
  round(
    coalesce(retried_per_s, 0)
      / nullif(coalesce(sent_per_s, 0) + coalesce(deferred_per_s, 0) + coalesce(unknown_per_s, 0) + coalesce(dead_per_s, 0), 0),
    4
  ) as retry_rate,
  send_p50_s,
  send_p95_s,
  send_p99_s,
  latency_p50_s,
  latency_p95_s,
  latency_p99_s
from happened
full join took using (stream, provider);
comment on view mail.flow is
  'What happened in the last full minute, per second, stream and provider (empty: before one was chosen), with the shares of attempts that failed and that were not a message''s first, and how long sending (from acceptance) and the provider took.';
