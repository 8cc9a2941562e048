-- How full the doors may be before the API refuses mail, and how full they are.

create table mail.intake_limit (
  one boolean primary key default true
    constraint there_is_one_row check (one),
  soft_backlog bigint not null default 100000
    constraint soft_backlog_is_positive check (soft_backlog > 0),
  hard_backlog bigint not null default 1000000,
  soft_age_s integer not null default 60
    constraint soft_age_is_positive check (soft_age_s > 0),
  hard_age_s integer not null default 600,
  soft_growth_per_s integer
    constraint soft_growth_is_positive check (soft_growth_per_s > 0),
  urgent_priority smallint not null default 3
    constraint urgent_priority_is_0_to_9 check (urgent_priority between 0 and 9),
  constraint hard_backlog_is_at_least_soft check (hard_backlog >= soft_backlog),
  constraint hard_age_is_at_least_soft check (hard_age_s >= soft_age_s)
);
comment on table mail.intake_limit is
  'One row: when the API begins to refuse mail. Past a soft limit less urgent streams get 429, past a hard one everybody gets 503. Changes take effect within a second; SQL writers are never refused.';
comment on column mail.intake_limit.soft_backlog is 'Messages that wait at both doors together.';
comment on column mail.intake_limit.soft_age_s is 'Seconds that the oldest of them has waited. Usually it is milliseconds.';
comment on column mail.intake_limit.soft_growth_per_s is
  'Messages a second by which the backlog grew over ten seconds, as each process sees it. Unset: not looked at, since a burst is what the doors are for, and one large insert grows it as much as a flood does.';
comment on column mail.intake_limit.urgent_priority is 'Streams with this priority, or a smaller number, are urgent.';

insert into mail.intake_limit default values;

create function mail.measure_intake(
  out backlog bigint,
  out oldest_age_s double precision,
  out oldest_seq bigint,
  out first_seq bigint,
  out last_seq bigint,
  out pressure text,
  out cause text
)
language plpgsql stable security definer
set search_path = pg_catalog, mail, pg_temp
-- Planned anew for each look: a plan made for empty doors would scan full ones.
set plan_cache_mode = force_custom_plan
as $$
declare
  allowed mail.intake_limit;
  last_priority integer := 9;
  oldest timestamptz;
  counted bigint;
begin
  select * into allowed from mail.intake_limit;
  select case when s.is_called then s.last_value else s.last_value - 1 end into last_seq from mail.message_seq s;

  -- Per priority, as the index has it: a look costs twenty steps, however much is waiting.
  -- The owner of a door may have written any time into it, 'infinity' too.
  select min(first.seq), min(heard.at), (array_agg(first.seq order by heard.at, first.seq))[1]
  into first_seq, oldest, oldest_seq
  from generate_series(0, last_priority) p
  cross join lateral (
    (select i.seq, i.received_at from mail.intake i where coalesce(i.priority, 5::smallint) = p order by i.seq limit 1)
    union all
    (select o.seq, o.received_at from mail.outbox o where coalesce(o.priority, 5::smallint) = p order by o.seq limit 1)
  ) first
  cross join lateral (
    select greatest(least(first.received_at, clock_timestamp()), now() - interval '30 days') as at
  ) heard;

  -- No more can wait than numbers were given since the oldest; fewer do, when others have overtaken it.
  backlog := case when first_seq is null then 0 else greatest(last_seq - first_seq + 1, 1) end;
  oldest_age_s := coalesce(extract(epoch from clock_timestamp() - oldest), 0);
  if backlog > allowed.soft_backlog then
    -- Counted only as far as any limit goes.
    counted := allowed.hard_backlog + 1;
    select count(*) into backlog
    from (
      (select from mail.intake limit counted)
      union all
      (select from mail.outbox limit counted)
    ) waiting;
  end if;

  select v.pressure, v.cause into pressure, cause
  from (values
    (1, 'hard', 'backlog', backlog > allowed.hard_backlog),
    (2, 'hard', 'age', oldest_age_s > allowed.hard_age_s),
    (3, 'soft', 'backlog', backlog > allowed.soft_backlog),
    (4, 'soft', 'age', oldest_age_s > allowed.soft_age_s)
  ) v (nth, pressure, cause, is_passed)
  where v.is_passed
  order by v.nth
  limit 1;
end
$$;
comment on function mail.measure_intake() is
  'What waits at both doors (up to a soft limit an upper bound, past it a count, as far as the hard limit), the age and number of the one received first, the lowest and the last number, and the limit that is passed: soft, hard or null, by backlog or age.';

create view mail.intake_pressure as
select
  m.pressure,
  m.cause,
  m.backlog,
  make_interval(secs => m.oldest_age_s) as oldest_age,
  l.soft_backlog,
  l.hard_backlog,
  make_interval(secs => l.soft_age_s) as soft_age,
  make_interval(secs => l.hard_age_s) as hard_age,
  l.soft_growth_per_s,
  l.urgent_priority
from mail.intake_limit l
cross join mail.measure_intake() m;
comment on view mail.intake_pressure is
  'Whether the API refuses mail now, and why: null, soft (429 for streams that are not urgent) or hard (503 for all). The backlog is an upper bound until it is past the soft limit. By age the API refuses only once mail has been seen waiting for so long: what is old because its transaction was long, or because it is retried, refuses nobody.';

alter view mail.queue rename to queue_depth;
comment on view mail.queue_depth is 'What mail.queue is made of.';

create view mail.queue as
with waiting as materialized (
  select * from mail.queue_depth
), line as (
  select * from waiting
  union all
  -- The limits are there to be seen while nothing waits, too.
  select 'intake', '', '', 0, 0, 0, null, 0.0, 0.0
  where not exists (select from waiting where stage = 'intake')
)
select
  line.*,
  p.pressure,
  p.soft_backlog,
  p.hard_backlog,
  p.soft_age,
  p.hard_age
from line
left join mail.intake_pressure p on line.stage = 'intake'
order by array_position(array['intake', 'scheduled', 'processing', 'dispatch'], line.stage), line.stream, line.provider;
comment on view mail.queue is
  'Where mail waits: messages ready, deferred (scheduled for later among them) and in flight per stage, stream and provider, the oldest one''s age, and the rates of the last minute. Of the intake also the limits, and whether one is passed.';
