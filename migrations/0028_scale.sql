-- How many workers the mail that waits and comes needs: the arithmetic of mail.scale, in the database so that REST, psql
-- and autoscalers agree.

alter table mail.stream add column send_within_s integer
  constraint send_within_is_positive check (send_within_s > 0);
comment on column mail.stream.send_within_s is
  'Within how many seconds its mail should be sent: what mail.scale aims at. Unset: 5 for urgent streams (priority 0 to 3), 30 for others.';

create table mail.scale_setting (
  one boolean primary key default true
    constraint there_is_one_row check (one),
  min_workers integer not null default 1
    constraint min_workers_is_not_negative check (min_workers >= 0),
  max_workers integer not null default 10,
  rate_per_worker double precision not null default 250
    constraint rate_per_worker_is_positive check (rate_per_worker > 0 and rate_per_worker < 'infinity'),
  constraint max_workers_is_at_least_min check (max_workers >= min_workers)
);
comment on table mail.scale_setting is 'One row: the bounds of what mail.scale asks for, and what one worker process can do.';
comment on column mail.scale_setting.rate_per_worker is
  'Messages a second that one worker process renders and sends when no provider limits it. A rate that was seen in the last minute counts when it is higher. npm run bench -- end-to-end measures it.';
insert into mail.scale_setting default values;

create function mail.scale_streams()
returns table (
  stream text,
  priority smallint,
  waiting bigint,
  arrival_per_s double precision,
  send_within_s integer,
  wanted_per_s double precision,
  provider_per_s double precision,
  allowed_per_s double precision,
  slots_per_s double precision,
  limited_by text,
  reason text
)
language plpgsql stable security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  room jsonb;
  s record;
  hop text;
  taken double precision;
  left_over double precision;
  has_open_hop boolean;
begin
  -- What each provider lets through a second: the least of its buckets; absent without any, 0 while it may not send.
  select coalesce(jsonb_object_agg(p.name, case when h.until is not null then 0 else b.per_s end)
    filter (where h.until is not null or b.per_s is not null), '{}')
  into room
  from mail.provider p
  cross join lateral mail.provider_hold(p.name, true) h
  left join (
    -- A quota of requests is one of messages as far as a request carries several, which the last minute has shown.
    select l.provider, min(l.rate_per_s * case l.counts when 'requests' then coalesce(f.per_request, 1) else 1 end) as per_s
    from mail.bucket_level l
    left join (
      select f.provider, greatest(1, sum(f.sent_per_s + f.deferred_per_s + f.unknown_per_s + f.dead_per_s) / nullif(sum(f.requests_per_s), 0)) as per_request
      from mail.flow f
      where f.requests_per_s > 0
      group by f.provider
    ) f on f.provider = l.provider
    group by l.provider
  ) b on b.provider = p.name;

  for s in
    select
      st.name, st.priority, st.route, st.slots, st.paused_at is not null as is_paused,
      mail.window_opens(st.name, now()) as opens_at,
      coalesce(st.send_within_s, case when st.priority <= 3 then 5 else 30 end) as within_s,
      coalesce(d.waiting, 0)::bigint as waiting,
      coalesce(f.arrival, 0)::double precision as arrival,
      f.latency_s, f.per_request
    from mail.stream st
    left join (
      -- Deferred mail waits for its moment, and no worker makes that come sooner.
      select d.stream, sum(d.ready + d.in_flight) as waiting
      from mail.depth d
      where d.measured_at > now() - interval '30 seconds'
      group by d.stream
    ) d on d.stream = st.name
    left join (
      select
        f.stream, sum(f.accepted_per_s) as arrival, max(f.latency_p50_s) as latency_s,
        -- Providers that take batches take several in one slot.
        greatest(1, sum(f.sent_per_s + f.deferred_per_s + f.unknown_per_s + f.dead_per_s) filter (where f.requests_per_s > 0)
          / nullif(sum(f.requests_per_s), 0))::double precision as per_request
      from mail.flow f
      group by f.stream
    ) f on f.stream = st.name
    order by st.priority, st.name
  loop
    stream := s.name;
    priority := s.priority;
    waiting := s.waiting;
    arrival_per_s := s.arrival;
    send_within_s := s.within_s;
    -- What comes has to go, and what waits has to be gone in time.
    wanted_per_s := case when s.is_paused or s.opens_at is not null then 0 else s.arrival + s.waiting::double precision / s.within_s end;
    -- Streams share providers: the urgent take first, each along its route.
    left_over := wanted_per_s;
    has_open_hop := false;
    provider_per_s := 0;
    foreach hop in array s.route loop
      if not room ? hop then
        has_open_hop := true;
        left_over := 0;
        exit;
      end if;
      provider_per_s := provider_per_s + (room ->> hop)::double precision;
      taken := least(left_over, (room ->> hop)::double precision);
      room := room || jsonb_build_object(hop, (room ->> hop)::double precision - taken);
      left_over := left_over - taken;
    end loop;
    if has_open_hop then
      provider_per_s := null;
    end if;
    allowed_per_s := wanted_per_s - left_over;
    -- Little's law: so many requests in flight, each as long as the provider takes.
    slots_per_s := s.slots * s.per_request / nullif(s.latency_s, 0);
    limited_by := case
      when wanted_per_s = 0 then 'nothing'
      when left_over > 0 then 'provider'
      else 'workers'
    end;
    reason := case
      when s.is_paused then 'It is paused.'
      when s.opens_at is not null then format('Its send window opens at %s.', s.opens_at)
      when wanted_per_s = 0 then 'Nothing waits and nothing comes.'
      when left_over > 0 and provider_per_s = 0 then 'No provider of its route may send now: workers would wait with it.'
      when left_over > 0 then format('Its providers let %s a second through for it; more workers would not send more.', round(allowed_per_s::numeric, 1))
      else format('%s a second come and %s wait, to be sent within %s s.', round(s.arrival::numeric, 1), s.waiting, s.within_s)
    end;
    return next;
  end loop;
end
$$;
comment on function mail.scale_streams() is
  'Per stream: what waits and comes, the rate at which it would be sent in time, what its providers let through of that, and what one process can send with its slots (slots * messages a request / latency).';

create function mail.scale(
  out workers integer,
  out current_workers integer,
  out wanted_per_s double precision,
  out allowed_per_s double precision,
  out rate_per_worker double precision,
  out reason text
)
language plpgsql stable security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  setting mail.scale_setting;
  seen double precision;
  slowest record;
  by_rate double precision;
begin
  select * into setting from mail.scale_setting;
  select count(*) into current_workers from mail.worker w where w.seen_at > now() - interval '30 seconds';
  select sum(f.sent_per_s) into seen from mail.flow f;
  rate_per_worker := greatest(setting.rate_per_worker, coalesce(seen, 0) / greatest(current_workers, 1));

  select coalesce(sum(s.wanted_per_s), 0), coalesce(sum(s.allowed_per_s), 0) into wanted_per_s, allowed_per_s
  from mail.scale_streams() s;
  select s.stream, s.allowed_per_s / s.slots_per_s as needs into slowest
  from mail.scale_streams() s
  where s.slots_per_s > 0
  order by needs desc
  limit 1;

  by_rate := allowed_per_s / rate_per_worker;
  workers := least(setting.max_workers, greatest(setting.min_workers, ceil(by_rate), ceil(coalesce(slowest.needs, 0))));
  reason := case
    when greatest(by_rate, coalesce(slowest.needs, 0)) > setting.max_workers
      then format('%s workers would be needed; max_workers is %s.', ceil(greatest(by_rate, slowest.needs)), setting.max_workers)
    when greatest(by_rate, coalesce(slowest.needs, 0)) <= setting.min_workers then 'As few as are allowed are enough.'
    when coalesce(slowest.needs, 0) > by_rate
      then format('Stream %s has too few slots in a worker for the time its providers take.', slowest.stream)
    else format('%s messages a second are to be sent, %s by each worker.', round(allowed_per_s::numeric, 1), round(rate_per_worker::numeric, 1))
  end;
end
$$;
comment on function mail.scale() is
  'How many worker processes are needed now: enough that each stream is sent within its time, and no more than its providers let through. Between min_workers and max_workers of mail.scale_setting.';
