-- Pacing: token buckets, the provider's own word, the breaker. All of it here and not in the workers, so
-- that every worker agrees, and one function says what may be sent now: mail.take_tokens.

create table mail.bucket (
  provider text not null references mail.provider on update cascade on delete cascade,
  name text not null
    constraint bucket_name_is_short_and_plain check (name ~ '^[a-z0-9_-]{1,64}$'),
  quota double precision not null
    constraint quota_is_positive check (quota > 0),
  window_s double precision not null default 1
    constraint window_is_positive check (window_s > 0),
  utilization double precision not null default 0.85
    constraint utilization_is_a_share check (utilization > 0 and utilization <= 1),
  burst double precision
    constraint burst_is_positive check (burst > 0),
  reserve double precision
    constraint reserve_is_not_negative check (reserve >= 0),
  counts text not null default 'messages'
    constraint counts_is_messages_or_requests check (counts in ('messages', 'requests')),
  tokens double precision,
  refilled_at timestamptz,
  urgent_until timestamptz,
  primary key (provider, name)
) with (fillfactor = 10);
comment on table mail.bucket is
  'What a provider allows: quota per window, of which utilization is used. Any stretch as long as the window sees at most burst + quota × utilization.';
comment on column mail.bucket.burst is
  'How many tokens may gather while nothing is sent. Unset: half of what utilization leaves of the quota, at least one; the other half allows for sends that are a little late.';
comment on column mail.bucket.reserve is 'Tokens only urgent streams (priority 0 to 3) may take. Unset: a tenth of the burst when that is ten or more.';
comment on column mail.bucket.counts is 'What a token is: a message, or a request that may carry a batch of them.';
comment on column mail.bucket.tokens is 'As of refilled_at; refilled when somebody asks. Unset: not used yet.';
comment on column mail.bucket.urgent_until is 'Until then others wait, because an urgent stream found too few tokens.';

alter table mail.provider
  add column reserve integer not null default 100
    constraint provider_reserve_is_not_negative check (reserve >= 0),
  add column breaker_share double precision not null default 0.05
    constraint breaker_share_is_a_share check (breaker_share > 0 and breaker_share <= 1),
  add column breaker_volume integer not null default 20
    constraint breaker_volume_is_positive check (breaker_volume > 0),
  add column breaker_run integer not null default 5
    constraint breaker_run_is_positive check (breaker_run > 0),
  add column breaker_cooldown_s integer not null default 5
    constraint breaker_cooldown_is_positive check (breaker_cooldown_s > 0),
  add column breaker_cooldown_cap_s integer not null default 120
    constraint breaker_cooldown_cap_is_at_least_cooldown check (breaker_cooldown_cap_s >= breaker_cooldown_s),
  add column paused_at timestamptz,
  add column paused_by text;
comment on column mail.provider.reserve is
  'When the provider itself says that fewer requests than this remain, they are left to urgent streams.';
comment on column mail.provider.breaker_share is 'Share of the provider''s faults over 60 s at which the breaker opens.';
comment on column mail.provider.breaker_volume is 'Requests in those 60 s below which the share means nothing.';
comment on column mail.provider.breaker_run is 'Faults in a row at which it opens whatever the volume.';
comment on column mail.provider.breaker_cooldown_s is 'How long it stays open at first; doubles with each failed return, up to the cap.';

alter table mail.stream
  add column max_age_s integer not null default 259200
    constraint max_age_is_positive check (max_age_s > 0),
  add column paused_at timestamptz,
  add column paused_by text;
comment on column mail.stream.max_age_s is 'A message that is still deferred at this age becomes a dead letter, whatever its attempts.';
comment on column mail.stream.paused_at is 'Set by mail.pause: its mail is accepted and processed, and waits.';

create table mail.provider_state (
  provider text primary key references mail.provider on update cascade on delete cascade,
  breaker text not null default 'closed'
    constraint breaker_is_known check (breaker in ('closed', 'open', 'half_open')),
  breaker_until timestamptz,
  breaker_reason text,
  cooldown_s integer,
  faults_in_row integer not null default 0,
  probes_out integer not null default 0,
  probes_ok integer not null default 0,
  blocked_until timestamptz,
  blocked_reason text,
  blocks_in_row integer not null default 0,
  remaining integer,
  remaining_until timestamptz,
  unusable_reason text
) with (fillfactor = 10);
comment on table mail.provider_state is 'How each provider is doing, as all workers see it; written only when something changes.';
comment on column mail.provider_state.breaker_until is 'Open: when a few probes may go. Half-open: when probes that never reported are given up.';
comment on column mail.provider_state.blocked_until is 'The provider said: nothing before that (429, Retry-After, SMTP 4.7.x).';
comment on column mail.provider_state.unusable_reason is
  'Why a worker could not open it: the variable with its credentials is not set there, or cannot be used.';
comment on column mail.provider_state.remaining is 'What the provider said remains of its own limit, until remaining_until.';

create table mail.provider_window (
  provider text not null references mail.provider on update cascade on delete cascade,
  second bigint not null,
  worker integer not null,
  requests integer not null,
  faults integer not null,
  primary key (provider, second, worker)
);
comment on table mail.provider_window is
  'Requests and the provider''s own faults per second and worker, for the breaker''s sliding 60 s.';

create table mail.provider_event (
  id bigint generated always as identity primary key,
  provider text not null,
  at timestamptz not null default clock_timestamp(),
  type text not null,
  reason text not null
);
comment on table mail.provider_event is 'Every change of a breaker, every pause and block, with its reason.';

create view mail.bucket_level as
select
  b.provider, b.name, b.counts,
  b.quota * b.utilization / b.window_s as rate_per_s,
  c.capacity,
  case
    when b.urgent_until > t.now_at then c.capacity
    -- One token is left for the others, or a reserve above the burst would stop them for good.
    else least(
      coalesce(b.reserve, case when c.capacity >= 10 then c.capacity / 10 else 0 end),
      greatest(0, c.capacity - 1)
    )
  end as kept_for_urgent,
  least(
    c.capacity,
    coalesce(b.tokens, c.capacity)
      + greatest(0, extract(epoch from t.now_at - coalesce(b.refilled_at, t.now_at)))::double precision
        * b.quota * b.utilization / b.window_s
  ) as available,
  t.now_at as as_of
from mail.bucket b
cross join lateral (select coalesce(b.burst, greatest(1, b.quota * (1 - b.utilization) / 2)) as capacity) c
-- One reading of the clock a row: what is refilled and as of when must be the same moment.
cross join lateral (select clock_timestamp() as now_at offset 0) t;
comment on view mail.bucket_level is 'Tokens in each bucket now, how fast they come, and how many of them are kept for urgent streams.';

create function mail.ms_until(at timestamptz) returns integer
language sql volatile parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  -- Before Postgres 17 nothing could be subtracted from infinity.
  select case
    when not isfinite(at) then 60000
    else least(60000, greatest(1, ceil(extract(epoch from at - clock_timestamp()) * 1000)))::integer
  end
$$;
comment on function mail.ms_until(timestamptz) is 'Milliseconds from now, from 1 to a minute.';

create function mail.why_held() returns text
language plpgsql stable security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  h record;
begin
  select * into h from mail.sending_hold where released_at is null;
  if found then
    return format('nothing is sent since %s: %s; a person ends that with mail.release', h.held_at, h.reason);
  end if;
  if not mail.sending_is_open() then
    return 'nothing is sent until a process has looked whether this database is still the one it was; that takes seconds';
  end if;
  return null;
end
$$;
comment on function mail.why_held() is 'Why nothing at all is sent, since when, and what ends it; null when mail is sent.';

create function mail.provider_hold(provider text, is_urgent boolean default true, out until timestamptz, out reason text)
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  p mail.provider;
  s mail.provider_state;
begin
  select * into p from mail.provider where name = provider_hold.provider;
  if not found then
    raise exception 'there is no provider %', provider_hold.provider using errcode = 'undefined_object';
  end if;
  if not mail.sending_is_open() then
    until := 'infinity';
    reason := mail.why_held();
    return;
  end if;
  if p.paused_at is not null then
    until := 'infinity';
    reason := format('paused by %s', p.paused_by);
    return;
  end if;
  select * into s from mail.provider_state st where st.provider = p.name;
  if s.blocked_until > clock_timestamp() then
    until := s.blocked_until;
    reason := format('the provider asked to wait: %s', s.blocked_reason);
  elsif s.breaker = 'open' and s.breaker_until > clock_timestamp() then
    until := s.breaker_until;
    reason := format('its breaker is open: %s', s.breaker_reason);
  elsif not is_urgent and s.remaining < p.reserve and s.remaining_until > clock_timestamp() then
    until := s.remaining_until;
    reason := format('it says that only %s requests remain, which are left to urgent streams', s.remaining);
  end if;
end
$$;
comment on function mail.provider_hold(text, boolean) is
  'Why nothing may go to a provider now, and until when; nulls when it may. Tokens are another matter.';

create function mail.take_tokens(
  provider text,
  want integer,
  priority smallint default 5,
  batch integer default 1,
  out granted integer,
  out wait_ms integer,
  out reason text
)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  is_urgent boolean := take_tokens.priority <= 3;
  is_probing boolean;
  hold record;
  scarce record;
begin
  granted := 0;
  hold := mail.provider_hold(take_tokens.provider, is_urgent);
  if hold.until is not null then
    wait_ms := mail.ms_until(hold.until);
    reason := hold.reason;
    return;
  end if;
  if want < 1 then
    return;
  end if;
  want := mail.take_probes(take_tokens.provider, want, batch);
  if want = 0 then
    wait_ms := 1000;
    reason := 'its breaker is half-open, and the probes are under way';
    return;
  end if;
  is_probing := exists (
    select from mail.provider_state s where s.provider = take_tokens.provider and s.breaker = 'half_open'
  );

  -- In one order everywhere, so that two takers cannot wait for each other.
  perform from mail.bucket b where b.provider = take_tokens.provider order by b.name for update;
  with level as materialized (
    select l.*, case l.counts when 'requests' then greatest(batch, 1) else 1 end as messages_a_token
    from mail.bucket_level l
    where l.provider = take_tokens.provider
  ), allowed as (
    select
      l.*,
      floor(l.available - case when is_urgent then 0 else l.kept_for_urgent end) * l.messages_a_token as messages
    from level l
  ), decided as (
    select greatest(0, least(want, coalesce(min(messages), want)))::integer as messages from allowed
  ), taken as (
    update mail.bucket b
    set tokens = l.available - ceil(d.messages::double precision / l.messages_a_token),
      refilled_at = l.as_of,
      -- An urgent stream that found too little is next, whatever the others ask for meanwhile.
      urgent_until = case
        when is_urgent and d.messages < least(want, floor(l.capacity) * l.messages_a_token) then l.as_of + interval '250 milliseconds'
        when is_urgent then null
        else b.urgent_until
      end
    from level l, decided d
    where b.provider = l.provider and b.name = l.name
  )
  select
    d.messages,
    a.name,
    -- Until a good half of what can gather is there: asking for each single token would cost a call each.
    (greatest(
      1,
      least(want, ceil(a.capacity / 2)) + case when is_urgent then 0 else a.kept_for_urgent end
        - (a.available - ceil(d.messages::double precision / a.messages_a_token))
    ) / a.rate_per_s * 1000) as wait_ms
  into scarce
  from decided d
  left join lateral (select * from allowed order by messages limit 1) a on true;

  granted := scarce.messages;
  if granted < want then
    wait_ms := least(60000, greatest(1, ceil(scarce.wait_ms)));
    reason := format('no tokens left in bucket %s', scarce.name);
    if is_probing then
      -- A probe that got no token is not under way.
      update mail.provider_state s
      set probes_out = greatest(0, s.probes_out - (want - granted))
      where s.provider = take_tokens.provider and s.breaker = 'half_open';
    end if;
  end if;
end
$$;
comment on function mail.take_tokens(text, integer, smallint, integer) is
  'How many messages may be sent to a provider now, at most as many as wanted; they count as sent unless given back. With less than wanted: in how many milliseconds to ask again, and why.';

create function mail.return_tokens(provider text, messages integer, batch integer default 1) returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  -- Everything in the order in which mail.take_tokens locks it, so that the two cannot wait for each other.
  update mail.provider_state s
  set probes_out = greatest(0, s.probes_out - return_tokens.messages)
  where s.provider = return_tokens.provider and s.breaker = 'half_open';
  select from mail.bucket b where b.provider = return_tokens.provider order by b.name for update;
  update mail.bucket b
  set tokens = least(l.capacity, b.tokens + floor(messages::double precision / case b.counts when 'requests' then greatest(batch, 1) else 1 end))
  from mail.bucket_level l
  where b.provider = return_tokens.provider and l.provider = b.provider and l.name = b.name and b.tokens is not null;
$$;
comment on function mail.return_tokens(text, integer, integer) is 'Gives back tokens for which there was no message after all.';

create function mail.take_probes(provider text, want integer, batch integer default 1) returns integer
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  s mail.provider_state;
  probes integer;
begin
  select * into s from mail.provider_state st where st.provider = take_probes.provider;
  if not found or s.breaker = 'closed' then
    return want;
  end if;
  select * into s from mail.provider_state st where st.provider = take_probes.provider for update;
  if s.breaker = 'closed' then
    return want;
  end if;
  if s.breaker = 'open' then
    update mail.provider_state st
    set breaker = 'half_open', probes_out = 0, probes_ok = 0
    where st.provider = s.provider;
    insert into mail.provider_event (provider, type, reason)
    values (s.provider, 'breaker_half_open', format('%s s are over: three probes find out', s.cooldown_s));
    s.probes_out := 0;
  elsif s.breaker_until < clock_timestamp() then
    -- Probes that never reported (their worker died) are given up.
    s.probes_out := 0;
  end if;
  -- A batch reports once however many messages it holds: a probe of such a provider is one message.
  probes := least(want, greatest(0, 3 - s.probes_out), case when batch > 1 then 1 else 3 end);
  update mail.provider_state st
  set probes_out = s.probes_out + probes,
    breaker_until = case when probes > 0 then clock_timestamp() + interval '60 seconds' else st.breaker_until end
  where st.provider = s.provider;
  return probes;
end
$$;
comment on function mail.take_probes(text, integer, integer) is
  'As many as wanted while the breaker is closed; of a half-open one, what is left of three probes.';

create function mail.note_results(
  provider text,
  worker integer,
  requests integer,
  faults integer,
  reason text default null
) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  now_s bigint := floor(extract(epoch from clock_timestamp()));
  is_news boolean;
  p mail.provider;
  s mail.provider_state;
  seen record;
begin
  select * into s from mail.provider_state st where st.provider = note_results.provider;
  if faults > 0 or s.breaker <> 'closed' or s.faults_in_row > 0 or s.blocks_in_row > 0 then
    -- Locked before the count is written: whoever opens the breaker deletes the counts of everybody.
    insert into mail.provider_state (provider) values (note_results.provider) on conflict do nothing;
    select * into s from mail.provider_state st where st.provider = note_results.provider for update;
    is_news := true;
  end if;
  insert into mail.provider_window as w (provider, second, worker, requests, faults)
  values (note_results.provider, now_s, note_results.worker, note_results.requests, note_results.faults)
  on conflict on constraint provider_window_pkey
  do update set requests = w.requests + excluded.requests, faults = w.faults + excluded.faults;
  if is_news is null then
    return;
  end if;
  select * into p from mail.provider where name = note_results.provider;

  if s.breaker = 'half_open' then
    if faults > 0 then
      perform mail.open_breaker(p.name, format('a probe failed: %s', note_results.reason));
    elsif s.probes_ok + requests >= 3 then
      perform mail.close_breaker(p.name, 'three probes went through');
    else
      update mail.provider_state st
      set probes_ok = st.probes_ok + requests
      where st.provider = p.name;
    end if;
    return;
  end if;

  update mail.provider_state st
  set faults_in_row = case when note_results.faults = 0 then 0 when note_results.faults < note_results.requests then note_results.faults else st.faults_in_row + note_results.faults end,
    blocks_in_row = case when note_results.faults < note_results.requests then 0 else st.blocks_in_row end
  where st.provider = p.name
  returning * into s;
  if s.breaker <> 'closed' or faults = 0 then
    return;
  end if;
  if s.faults_in_row >= p.breaker_run then
    perform mail.open_breaker(p.name, format('%s faults in a row, the latest: %s', s.faults_in_row, note_results.reason));
    return;
  end if;
  select sum(w.requests) as requests, sum(w.faults) as faults into seen
  from mail.provider_window w
  where w.provider = p.name and w.second > now_s - 60;
  if seen.requests >= p.breaker_volume and seen.faults >= seen.requests * p.breaker_share then
    perform mail.open_breaker(
      p.name,
      format('%s of %s requests failed within 60 s, the latest: %s', seen.faults, seen.requests, note_results.reason)
    );
  end if;
end
$$;
comment on function mail.note_results(text, integer, integer, integer, text) is
  'Tells the breaker what became of requests; faults are the provider''s own (connection, throttling, 5xx, authentication), never a recipient''s.';

create function mail.open_breaker(provider text, reason text) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  s mail.provider_state;
begin
  update mail.provider_state st
  set breaker = 'open',
    breaker_reason = open_breaker.reason,
    cooldown_s = case st.breaker
      when 'half_open' then least(coalesce(st.cooldown_s, p.breaker_cooldown_s) * 2, p.breaker_cooldown_cap_s)
      else p.breaker_cooldown_s
    end,
    breaker_until = clock_timestamp() + make_interval(secs => case st.breaker
      when 'half_open' then least(coalesce(st.cooldown_s, p.breaker_cooldown_s) * 2, p.breaker_cooldown_cap_s)
      else p.breaker_cooldown_s
    end),
    faults_in_row = 0,
    probes_out = 0,
    probes_ok = 0
  from mail.provider p
  where p.name = st.provider and st.provider = open_breaker.provider
  returning st.* into s;
  -- What was counted so far opened it; the next opening needs new evidence.
  delete from mail.provider_window w where w.provider = open_breaker.provider;
  insert into mail.provider_event (provider, type, reason)
  values (s.provider, 'breaker_opened', format('%s; for %s s', s.breaker_reason, s.cooldown_s));
end
$$;
comment on function mail.open_breaker(text, text) is 'Stops everything to a provider for its cooldown, twice as long after each failed return.';

create function mail.close_breaker(provider text, reason text default 'closed by hand') returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  update mail.provider_state st
  set breaker = 'closed', breaker_until = null, breaker_reason = null, cooldown_s = null,
    faults_in_row = 0, probes_out = 0, probes_ok = 0
  where st.provider = close_breaker.provider and st.breaker <> 'closed';
  if found then
    insert into mail.provider_event (provider, type, reason)
    values (close_breaker.provider, 'breaker_closed', close_breaker.reason);
  end if;
end
$$;
comment on function mail.close_breaker(text, text) is 'Lets mail through again. Safe to repeat.';

create function mail.block_provider(provider text, wait_ms integer default null, reason text default null) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  s mail.provider_state;
  now_at timestamptz;
  until timestamptz;
  is_blocked boolean;
begin
  insert into mail.provider_state (provider) values (block_provider.provider) on conflict do nothing;
  select * into s from mail.provider_state st where st.provider = block_provider.provider for update;
  now_at := clock_timestamp();
  is_blocked := coalesce(s.blocked_until > now_at, false);
  -- Asked to wait without being told how long: a second, then twice as long each time, up to a minute. What was
  -- under way when it asked is refused as well, and is not asked twice.
  if is_blocked and block_provider.wait_ms is null then
    return;
  end if;
  until := now_at + coalesce(block_provider.wait_ms, least(60000, 1000 * power(2, least(s.blocks_in_row, 6)))) * interval '1 millisecond';
  if is_blocked and until <= s.blocked_until then
    return;
  end if;
  update mail.provider_state st
  set blocked_until = until,
    blocked_reason = block_provider.reason,
    blocks_in_row = st.blocks_in_row + case when is_blocked then 0 else 1 end
  where st.provider = block_provider.provider;
  if not is_blocked or until > s.blocked_until + interval '1 second' then
    insert into mail.provider_event (provider, type, reason)
    values (s.provider, 'blocked', format('until %s: %s', until, block_provider.reason));
  end if;
end
$$;
comment on function mail.block_provider(text, integer, text) is
  'The provider''s own word: nothing to it for so long. Without a time, a pause that doubles.';

create function mail.note_remaining(provider text, remaining integer, reset_ms integer) returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  insert into mail.provider_state as s (provider, remaining, remaining_until)
  values (note_remaining.provider, note_remaining.remaining, clock_timestamp() + coalesce(reset_ms, 60000) * interval '1 millisecond')
  on conflict (provider) do update set remaining = excluded.remaining, remaining_until = excluded.remaining_until
$$;
comment on function mail.note_remaining(text, integer, integer) is
  'What the provider says remains of its own limit; below mail.provider.reserve it is left to urgent streams.';

create function mail.route_is_complete() returns trigger
language plpgsql
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  missing text;
begin
  select r.name into missing
  from unnest(new.route) as r (name)
  where not exists (select from mail.provider p where p.name = r.name)
  limit 1;
  if missing is not null then
    raise exception 'stream % cannot route to %, there is no such provider', new.name, missing
      using errcode = 'foreign_key_violation',
        hint = format('The providers are %s.', (select coalesce(string_agg(p.name, ', ' order by p.name), 'none yet') from mail.provider p));
  end if;
  return new;
end
$$;
create trigger route_is_complete before insert or update of route on mail.stream
for each row execute function mail.route_is_complete();

create function mail.provider_is_free() returns trigger
language plpgsql
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  if exists (select from mail.stream s where old.name = any (s.route)) then
    raise exception 'provider % is on the route of stream %', old.name, (select name from mail.stream where old.name = any (route) limit 1)
      using errcode = 'foreign_key_violation', hint = 'Take it off the route first.';
  end if;
  if exists (select from mail.waiting_job j where j.stage = 'dispatch' and j.provider = old.name) then
    raise exception 'mail is waiting for provider %', old.name
      using errcode = 'foreign_key_violation', hint = 'The next provider on the route takes it over; wait until mail.queue shows none.';
  end if;
  return old;
end
$$;
create trigger provider_is_free before delete on mail.provider
for each row execute function mail.provider_is_free();
