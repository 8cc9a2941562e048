-- When mail may go out: send windows of streams, and limits per recipient domain.

-- A window is open when a clock on the wall of its time zone shows a time within it. That settles the nights on which
-- clocks change: an hour that does not exist opens nothing, and one that comes twice counts both times.
create table mail.send_window (
  id bigint generated always as identity primary key,
  stream text not null references mail.stream on update cascade on delete cascade,
  days text[] not null default '{mon,tue,wed,thu,fri,sat,sun}'
    constraint days_are_one_or_more_of_mon_tue_wed_thu_fri_sat_sun
    check (cardinality(days) > 0 and days <@ '{mon,tue,wed,thu,fri,sat,sun}'::text[]),
  opens time not null
    constraint a_window_opens_at_a_whole_minute_before_24_00 check (opens < '24:00' and extract(second from opens) = 0),
  closes time not null
    constraint a_window_closes_at_a_whole_minute check (extract(second from closes) = 0),
  time_zone text not null default 'UTC',
  constraint a_window_opens_and_closes_at_different_times check (opens <> closes)
);
create index send_window_of_stream on mail.send_window (stream);
comment on table mail.send_window is
  'When mail of a stream may be sent. A stream without a window may always; one with several while any of them is open. Mail that comes meanwhile is accepted and processed, and waits.';
comment on column mail.send_window.days is 'On which it opens: mon, tue, wed, thu, fri, sat, sun.';
comment on column mail.send_window.opens is 'By the clock of its time zone. From 00:00 to 24:00 is the whole day.';
comment on column mail.send_window.closes is 'Not after opens: on the next day.';
comment on column mail.send_window.time_zone is 'An IANA name, such as Europe/Berlin.';

create function mail.time_zone_is_known() returns trigger
language plpgsql
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  known text;
begin
  -- Looking for a name reads the file of every zone there is, some 80 ms.
  if new.time_zone = 'UTC' or exists (select from mail.send_window w where w.time_zone = new.time_zone) then
    return new;
  end if;
  -- "at time zone" takes much more (CEST, UTC+2, XYZ-5), and gives some of it a meaning that nobody expects.
  select z.name into known from pg_timezone_names z where lower(z.name) = lower(new.time_zone) order by z.name = new.time_zone desc limit 1;
  if known is null then
    raise exception 'there is no time zone %', quote_literal(new.time_zone)
      using errcode = 'invalid_parameter_value',
        hint = coalesce(
          (
            select 'Did you mean ' || string_agg(z.name, ' or ' order by z.name) || '?'
            from pg_timezone_names z
            where new.time_zone <> '' and z.name like '%/%' and z.name !~ '^(posix|right)/'
              and lower(z.name) like '%/' || replace(lower(regexp_replace(new.time_zone, '^.*/', '')), ' ', '\_')
          ),
          'Give an IANA name such as Europe/Berlin; select name from pg_timezone_names lists them.'
        );
  end if;
  new.time_zone := known;
  return new;
end
$$;
comment on function mail.time_zone_is_known() is 'Refuses what is no IANA name of a time zone, and says what may have been meant.';
create trigger time_zone_is_known before insert or update of time_zone on mail.send_window
for each row execute function mail.time_zone_is_known();

create function mail.window_is_open(stream text, at timestamptz) returns boolean
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select not exists (select from mail.send_window w where w.stream = window_is_open.stream)
    or exists (
      select
      from mail.send_window w
      cross join lateral (select window_is_open.at at time zone w.time_zone as shows) wall
      cross join lateral (
        select to_char(wall.shows, 'dy') as today, to_char(wall.shows - interval '1 day', 'dy') as yesterday, w.closes <= w.opens as is_over_midnight
      ) d
      where w.stream = window_is_open.stream
        and case
          when wall.shows::time >= w.opens then d.today = any (w.days) and (d.is_over_midnight or wall.shows::time < w.closes)
          else d.is_over_midnight and d.yesterday = any (w.days) and wall.shows::time < w.closes
        end
    )
$$;
comment on function mail.window_is_open(text, timestamptz) is
  'Whether mail of a stream may be sent at a moment, by its windows.';

create function mail.window_edges(stream text, since timestamptz, until timestamptz) returns setof timestamptz
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  with day as materialized (
    select w.time_zone, w.opens, w.closes, d as midnight
    from mail.send_window w
    cross join lateral generate_series(
      date_trunc('day', window_edges.since at time zone w.time_zone) - interval '1 day',
      date_trunc('day', window_edges.until at time zone w.time_zone) + interval '1 day',
      interval '1 day'
    ) d
    where w.stream = window_edges.stream
  ), shown as (
    select time_zone, midnight + opens as wall from day
    union
    select time_zone, midnight + closes from day
  ), jump as (
    -- Clocks that are put forward or back may land inside a window, or outside. Such days are few, and looked through.
    select m.minute
    from (select distinct time_zone as z, midnight at time zone 'UTC' as starts from day) d
    cross join lateral generate_series(d.starts + interval '1 minute', d.starts + interval '24 hours', interval '1 minute') m (minute)
    where d.starts at time zone d.z + interval '24 hours' <> (d.starts + interval '24 hours') at time zone d.z
      and (m.minute - interval '1 minute') at time zone d.z + interval '1 minute' <> m.minute at time zone d.z
  ), edge (at) as (
    -- What a clock shows twice a year has two moments: by the time of the day before, and by that of the day after.
    select (s.wall - (near.moment at time zone s.time_zone - near.moment at time zone 'UTC')) at time zone 'UTC'
    from shown s
    cross join lateral (
      select s.wall at time zone s.time_zone + side.days * interval '24 hours' as moment from (values (-1), (1)) side (days)
    ) near
    union
    select minute from jump
  )
  select at from edge where at > window_edges.since and at < window_edges.until
$$;
comment on function mail.window_edges(text, timestamptz, timestamptz) is
  'Every moment between two others at which a stream''s windows may open or close: between two of these moments nothing changes.';

create function mail.window_opens(stream text, at timestamptz) returns timestamptz
language sql stable security definer
set search_path = pg_catalog, mail, pg_temp
as $$
  select case
    when not mail.window_is_open(stream, at) then coalesce(
      -- One that opens once a week may miss a turn when clocks are put forward. Sorted first: then few have to be tried.
      (
        select edge
        from (select edge from mail.window_edges(stream, at, at + interval '15 days') edge order by edge offset 0) sorted
        where mail.window_is_open(stream, edge)
        limit 1
      ),
      at + interval '15 days'
    )
  end
$$;
comment on function mail.window_opens(text, timestamptz) is
  'When the send window of a stream opens next; null when it is open at that moment, or when the stream has none.';

create function mail.window_opened(stream text, at timestamptz) returns timestamptz
language sql stable security definer
set search_path = pg_catalog, mail, pg_temp
as $$
  select case
    when exists (select from mail.send_window w where w.stream = window_opened.stream) and mail.window_is_open(stream, at) then coalesce(
      (
        select edge
        from (
          select edge
          from mail.window_edges(stream, at - interval '15 days', at + interval '1 microsecond') edge
          order by edge desc
          offset 0
        ) sorted
        where mail.window_is_open(stream, edge) and not mail.window_is_open(stream, edge - interval '1 microsecond')
        limit 1
      ),
      at - interval '15 days'
    )
  end
$$;
comment on function mail.window_opened(text, timestamptz) is
  'Since when the send window of a stream is open, 15 days back at most: mail that is older could go no sooner. Null when it is closed at that moment, or when the stream has none.';

create function mail.open_time(stream text, since timestamptz, until timestamptz) returns interval
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select coalesce(sum(stretch.ends - stretch.starts), interval '0')
  from (
    select moment as starts, lead(moment) over (order by moment) as ends
    from (
      select open_time.since
      union
      select mail.window_edges(open_time.stream, open_time.since, open_time.until)
      union
      select open_time.until
    ) moments (moment)
  ) stretch
  where stretch.ends is not null and mail.window_is_open(open_time.stream, stretch.starts)
$$;
comment on function mail.open_time(text, timestamptz, timestamptz) is
  'For how long of the time between two moments the stream''s windows were open, by the windows it has now.';

-- What waits for a window is not ready, just as what is due later; and once it is open, it counts from its opening.
create or replace view mail.waiting_job as
with gate as materialized (
  select s.name, mail.window_opens(s.name, now()) is not null as is_closed, mail.window_opened(s.name, now()) as opened_at
  from mail.stream s
)
select
  split_part(j.name, '.', 1) as stage,
  case split_part(j.name, '.', 1) when 'dispatch' then split_part(j.name, '.', 3) else split_part(j.name, '.', 2) end as stream,
  case split_part(j.name, '.', 1) when 'dispatch' then split_part(j.name, '.', 2) else '' end as provider,
  case split_part(j.name, '.', 1) when 'process' then jsonb_array_length(j.data -> 'ids') else 1 end as messages,
  j.state = 'active' as in_flight,
  j.start_after > now() or (j.state < 'active' and g.is_closed is true) as deferred,
  case when j.state = 'active' then j.started_on else greatest(j.created_on, j.start_after, g.opened_at) end as since
from pgboss.job j
left join gate g on g.name = split_part(j.name, '.', 3) and split_part(j.name, '.', 1) = 'dispatch'
where j.state < 'completed'
  and split_part(j.name, '.', 1) in ('process', 'dispatch');
comment on view mail.waiting_job is 'The jobs of both queued stages in Sluice''s words; read mail.queue for the sums.';

create table mail.domain_limit (
  id integer generated always as identity primary key,
  domain text not null
    constraint domain_is_lower_case_or_a_star check (domain = '*' or domain ~ '^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$'),
  provider text references mail.provider on update cascade on delete cascade,
  quota double precision not null
    constraint domain_quota_is_positive check (quota > 0 and quota < 'infinity'),
  window_s double precision not null default 1
    constraint domain_window_is_positive check (window_s > 0 and window_s < 'infinity'),
  utilization double precision not null default 0.85
    constraint domain_utilization_is_a_share check (utilization > 0 and utilization <= 1),
  burst double precision
    constraint domain_burst_is_at_least_1 check (burst >= 1 and burst < 'infinity'),
  constraint a_domain_has_one_limit_a_provider unique nulls not distinct (domain, provider)
);
comment on table mail.domain_limit is
  'How much mail may go to a recipient domain: quota per window, over all workers. Any stretch as long as the window sees at most quota + burst. Empty: no limits.';
comment on column mail.domain_limit.domain is 'Of recipients, in lower case; * is the limit of each domain that has none of its own.';
comment on column mail.domain_limit.provider is 'Counts only what goes through this provider. Unset: all mail, and both limits hold.';
comment on column mail.domain_limit.utilization is 'The share of the quota that is planned ahead; the rest lets mail that is late, and urgent mail, go in between.';
comment on column mail.domain_limit.burst is
  'How many may go at once after a silence; urgent streams (priority 0 to 3) may go as many beyond it. Unset: what the quota gives in a quarter of a second, at least one.';

create table mail.domain_pace (
  limit_id integer not null references mail.domain_limit on delete cascade,
  domain text not null,
  spent_until timestamptz not null default clock_timestamp(),
  planned_until timestamptz not null default clock_timestamp(),
  planned_urgent_until timestamptz not null default clock_timestamp(),
  late_until timestamptz not null default clock_timestamp(),
  primary key (limit_id, domain)
) with (fillfactor = 10);
comment on table mail.domain_pace is
  'How far the quota of each limited domain is used: each message takes one spacing (window / quota). A row that lies in the past says nothing, and is removed.';
comment on column mail.domain_pace.spent_until is 'What was sent, at the full quota; never further ahead than the burst.';
comment on column mail.domain_pace.planned_until is 'What was given its turn, at the utilization of the quota: the end of the queue.';
comment on column mail.domain_pace.planned_urgent_until is 'The same for urgent streams, who do not queue behind the others.';

comment on column mail.domain_pace.late_until is 'The queue of those who came late for their turn and found no room: at what the utilization leaves of the quota.';

create function mail.replan_domains() returns trigger
language plpgsql security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  -- What waits for its turn under the old limits asks anew, once every worker knows the new ones. What somebody has in
  -- hand is past waiting.
  with waiting as (
    select j.name, j.id
    from pgboss.job j
    where j.name = any (array(select q.name from pgboss.queue q where q.name like 'dispatch.%'))
      and j.state < 'active' and j.start_after > now() and j.data ? 'hasTurn'
    for update skip locked
  ), job as (
    update pgboss.job j
    set start_after = now() + interval '1 second', data = j.data - 'hasTurn'
    from waiting w
    where j.name = w.name and j.id = w.id
    returning j.id, j.start_after
  )
  update mail.message m set next_attempt_at = job.start_after from job where m.id = job.id and m.status = 'deferred';
  -- In the order in which claims lock them.
  perform from mail.domain_pace p order by p.limit_id, p.domain for update;
  update mail.domain_pace set planned_until = spent_until, planned_urgent_until = spent_until, late_until = spent_until;
  return null;
end
$$;
comment on function mail.replan_domains() is 'Lets mail that waits for a limited domain ask again, now that the limits are others.';
create trigger replan_domains after insert or update or delete on mail.domain_limit
for each statement execute function mail.replan_domains();
