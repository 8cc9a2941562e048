-- Alerts of its own: rules as rows, one statement that measures them all, what fired and what was told to whom.

create table mail.alert_rule (
  name text primary key
    constraint rule_name_is_short_and_plain check (name ~ '^[a-z0-9_]{1,64}$'),
  kind text not null
    constraint alert_kind_is_known check (kind in (
      'dead_letters', 'dead_letter_growth', 'lag', 'oldest_age', 'time_to_send', 'error_rate', 'retry_rate', 'growth',
      'rate_drop', 'breaker', 'provider_unusable', 'intake_loss', 'intake_pressure', 'long_transaction', 'worker_died',
      'worker_silent', 'no_worker', 'endpoint_disabled', 'feedback_parked', 'feedback_unmatched', 'partitions_missing', 'sending_held'
    )),
  threshold double precision not null
    constraint threshold_is_a_number_from_0 check (threshold >= 0 and threshold < 'infinity'),
  clear_at double precision
    constraint clear_at_is_not_above_threshold check (clear_at >= 0 and clear_at <= threshold),
  min_volume double precision
    constraint min_volume_is_not_negative check (min_volume >= 0),
  for_s integer not null default 0
    constraint for_is_0_to_a_day check (for_s between 0 and 86400),
  clear_for_s integer not null default 60
    constraint clear_for_is_0_to_a_day check (clear_for_s between 0 and 86400),
  severity text not null default 'warning'
    constraint severity_is_warning_or_critical check (severity in ('warning', 'critical')),
  stream text,
  provider text,
  urgent boolean,
  enabled boolean not null default true,
  repeat_s integer
    constraint repeat_is_at_least_a_minute check (repeat_s >= 60),
  description text not null,
  command text not null,
  page text not null default '/'
    constraint page_is_a_path_of_this_host check (page ~ '^/([a-z0-9][a-z0-9/_-]*)?$')
);
comment on table mail.alert_rule is
  'When somebody is told of trouble: what is measured (kind), and the limit. Every kind is the worse the greater it is; mail.alert_measure shows what each rule measures now. Rows may be changed, switched off, and added.';
comment on column mail.alert_rule.threshold is 'Fires above it: messages, seconds, messages a second, a share of 1, or 0 for what is to be told at once.';
comment on column mail.alert_rule.clear_at is 'Over at this and below. Unset: at the threshold.';
comment on column mail.alert_rule.min_volume is
  'Below so many it is not measured: attempts of the last minute (error_rate, retry_rate), messages sent in it (time_to_send), waiting (growth), or passing in a usual minute (rate_drop).';
comment on column mail.alert_rule.for_s is 'So long it has to last before it fires.';
comment on column mail.alert_rule.clear_for_s is 'So long it has to be over before it is resolved.';
comment on column mail.alert_rule.stream is 'Only this one. Unset: each for itself.';
comment on column mail.alert_rule.urgent is 'True: only streams of priority 0 to 3; false: only the others.';
comment on column mail.alert_rule.repeat_s is 'Told again so often until somebody acknowledges it. Unset: once.';
comment on column mail.alert_rule.command is
  'What to look at next, in SQL for mail_operator; {stream}, {provider}, {stage} and {endpoint} stand for what the alert is about, quoted.';
comment on column mail.alert_rule.page is 'The page of the dashboard.';

create table mail.alert (
  id uuid primary key default mail.uuid7(),
  rule text not null,
  subject text not null,
  severity text not null,
  stream text,
  provider text,
  since timestamptz not null,
  fired_at timestamptz not null default clock_timestamp(),
  last_seen_at timestamptz not null default clock_timestamp(),
  clear_since timestamptz,
  resolved_at timestamptz,
  value double precision not null,
  worst_value double precision not null,
  threshold double precision not null,
  what text not null,
  command text not null,
  page text not null,
  acknowledged_at timestamptz,
  acknowledged_by text
) with (fillfactor = 50);
create unique index alert_is_open_once on mail.alert (rule, subject) where resolved_at is null;
comment on table mail.alert is 'What fired, once for each rule and subject while it lasts; how long resolved ones are kept is in mail.retention.';
comment on column mail.alert.subject is 'The stream, provider, worker or the like that it is about; empty when there is only one.';
comment on column mail.alert.since is 'When it was first seen above the threshold.';
comment on column mail.alert.clear_since is 'Since when it has not been seen any more, while it is not resolved yet.';
comment on column mail.alert.what is 'One sentence: what, and since when.';
comment on column mail.alert.command is 'What to look at next, as it is pasted into psql.';

create table mail.alert_pending (
  rule text not null,
  subject text not null,
  since timestamptz not null,
  seen_at timestamptz not null,
  primary key (rule, subject)
);
comment on table mail.alert_pending is 'What is above its threshold now, and since when: it fires when that has lasted long enough.';

create table mail.alert_silence (
  id bigint generated always as identity primary key,
  rule text not null,
  subject text,
  until timestamptz not null,
  made_by text not null default session_user,
  made_at timestamptz not null default clock_timestamp()
);
comment on table mail.alert_silence is 'Alerts that nobody is told of until then: of a rule, about one subject or about all (null). They fire and are seen all the same.';

create table mail.alert_target (
  id uuid primary key default mail.uuid7(),
  name text not null
    constraint target_name_is_unique unique
    constraint target_name_is_short_and_plain check (name ~ '^[a-z0-9_-]{1,64}$'),
  kind text not null
    constraint target_kind_is_slack_generic_or_email check (kind in ('slack', 'generic', 'email')),
  url text
    constraint url_is_http_without_spaces check (url ~ '^https?://[^[:space:]]+$' and length(url) <= 2000),
  url_env text
    constraint url_env_is_a_variable_name check (url_env ~ '^[A-Z_][A-Z0-9_]*$'),
  secret_env text
    constraint secret_env_is_a_variable_name check (secret_env ~ '^[A-Z_][A-Z0-9_]*$'),
  address text
    constraint address_is_plain_ascii check (address ~ '^[!-;=?A-~]+@[A-Za-z0-9.-]+$'),
  sender text
    constraint sender_is_plain_ascii check (sender ~ '^[!-;=?A-~]+@[A-Za-z0-9.-]+$'),
  min_severity text not null default 'warning'
    constraint min_severity_is_warning_or_critical check (min_severity in ('warning', 'critical')),
  enabled boolean not null default true,
  created_at timestamptz not null default clock_timestamp(),
  constraint email_target_has_address_and_sender_and_others_have_none
    check ((kind = 'email') = (address is not null) and (kind = 'email') = (sender is not null)),
  constraint webhook_target_has_either_a_url_or_the_name_of_its_variable
    check (num_nonnulls(url, url_env) = case kind when 'email' then 0 else 1 end),
  constraint only_a_generic_target_is_signed check (kind = 'generic' or secret_env is null)
);
comment on table mail.alert_target is 'Who is told of alerts beside the log, which always is.';
comment on column mail.alert_target.url_env is 'Environment variable with the URL, where that is a secret (Slack''s is).';
comment on column mail.alert_target.secret_env is 'Environment variable with the secret (whsec_…) that signs the requests as Standard Webhooks has it.';
comment on column mail.alert_target.sender is 'From: of the mail.';

create table mail.alert_delivery (
  id uuid primary key default mail.uuid7(),
  target_id uuid not null references mail.alert_target on delete cascade,
  state text not null default 'gathering'
    constraint alert_delivery_state_is_known check (state in ('gathering', 'sending', 'sent', 'failed')),
  created_at timestamptz not null default clock_timestamp(),
  next_attempt_at timestamptz not null default clock_timestamp(),
  leased_until timestamptz,
  tries integer not null default 0,
  alerts jsonb,
  last_error text,
  ended_at timestamptz
);
create unique index alert_delivery_gathers_once on mail.alert_delivery (target_id) where state = 'gathering';
create index alert_delivery_open on mail.alert_delivery (target_id, id) where state in ('gathering', 'sending');
comment on table mail.alert_delivery is
  'One message to one target. While an earlier one cannot be delivered, everything new gathers in the next. Kept for 30 days.';
comment on column mail.alert_delivery.state is 'gathering: not tried yet, still takes up what is new; sending: tried until it is sent or, after a day, failed.';
comment on column mail.alert_delivery.leased_until is 'A process has it in hand; past this moment it is taken for dead.';
comment on column mail.alert_delivery.alerts is 'What the message says: fixed at the first attempt.';

create table mail.alert_notice (
  id bigint generated always as identity primary key,
  alert_id uuid not null references mail.alert on delete cascade,
  target_id uuid not null,
  delivery_id uuid not null references mail.alert_delivery on delete cascade,
  event text not null
    constraint alert_event_is_known check (event in ('fired', 'reminded', 'resolved')),
  at timestamptz not null default clock_timestamp()
);
create index alert_notice_of_alert on mail.alert_notice (alert_id, target_id, id);
create index alert_notice_of_delivery on mail.alert_notice (delivery_id);
comment on table mail.alert_notice is 'What each target is told of each alert.';

create table mail.worker_death (
  id bigint generated always as identity primary key,
  number integer not null,
  name text not null,
  died_at timestamptz not null default clock_timestamp()
);
create index worker_death_in_time on mail.worker_death (died_at);
comment on table mail.worker_death is 'Workers that were found dead, and whose work was given back; kept for 30 days.';

create table mail.snapshot_seen (
  pid integer not null,
  xid bigint not null,
  first_seen_at timestamptz not null default clock_timestamp(),
  primary key (pid, xid)
);
comment on table mail.snapshot_seen is
  'Since when sessions have held the same transaction: of other roles'' sessions Postgres tells their start only to pg_read_all_stats.';

-- What the rules measure has to be found without a scan.
create index dead_letter_of_stream on mail.dead_letter (stream);
create index feedback_parked_of_endpoint on mail.feedback (endpoint) where state = 'parked';
create index feedback_unmatched_in_time on mail.feedback_unmatched (received_at);

create function mail.in_words(seconds double precision) returns text
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select case
    when seconds < 120 then format('%s s', round(seconds::numeric, case when seconds < 10 then 1 else 0 end))
    when seconds < 7200 then format('%s minutes', floor(seconds / 60))
    when seconds < 172800 then format('%s hours', floor(seconds / 3600))
    else format('%s days', floor(seconds / 86400))
  end
$$;
comment on function mail.in_words(double precision) is 'A length of time for people: 45 s, 12 minutes, 3 hours.';

create function mail.fill_command(command text, detail jsonb) returns text
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  -- In one pass, so that what is put in is never taken for a placeholder.
  select string_agg(
    case when part.found[1] ~ '^\{[a-z_]+\}$' then quote_nullable(detail ->> btrim(part.found[1], '{}')) else part.found[1] end,
    '' order by part.place
  )
  from regexp_matches(command, '\{[a-z_]+\}|[^{]+|\{', 'g') with ordinality as part (found, place)
$$;
comment on function mail.fill_command(text, jsonb) is 'The command of a rule with what the alert is about in place of {stream} and the like.';

create view mail.old_transaction as
select
  a.pid, a.usename as role, a.application_name as application, a.datname as database, null as prepared,
  extract(epoch from clock_timestamp() - coalesce(a.xact_start, s.first_seen_at))::double precision as open_s
from pg_stat_activity a
cross join lateral (select coalesce(a.backend_xid, a.backend_xmin)::text::bigint as xid) held
left join mail.snapshot_seen s on (s.pid, s.xid) = (a.pid, held.xid)
-- A snapshot holds back its own database, a transaction that writes also the event feed of every other.
where a.pid <> pg_backend_pid() and a.usesysid is not null
  and (a.backend_xid is not null or (a.backend_xmin is not null and a.datname = current_database()))
union all
select null, p.owner, null, p.database, p.gid, extract(epoch from clock_timestamp() - p.prepared)::double precision
from pg_prepared_xacts p
where p.database = current_database();
comment on view mail.old_transaction is
  'Open transactions that keep vacuum from cleaning up, and for how long. Never what they run. Of sessions of other roles the time counts from when it was first seen, unless one is a member of pg_read_all_stats.';

create view mail.partition_gap as
select c.relname::text as parent, d.day::date as day
from pg_class c
cross join generate_series((now() at time zone 'utc')::date, (now() at time zone 'utc')::date + 2, interval '1 day') as d (day)
where c.relnamespace = 'mail'::regnamespace and c.relkind = 'p'
  and to_regclass(format('mail.%I', c.relname || to_char(d.day, '_YYYYMMDD'))) is null;
comment on view mail.partition_gap is
  'Daily partitions of today and the next two days that are missing; mail.ensure_partitions makes them, a week ahead.';

create function mail.rests(stage text, stream text) returns boolean
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  return stage = 'dispatch' and mail.window_opens(stream, now()) is not null;
end
$$;
comment on function mail.rests(text, text) is 'Whether mail of a stream waits on purpose, for its send window: that is no trouble.';

create view mail.alert_measure as
with recursive minute as materialized (
  -- The last whole minute, as in mail.flow.
  select date_bin('10 seconds', clock_timestamp(), 'epoch') as until
), flow as materialized (
  select * from mail.flow
), depth as materialized (
  -- Older ones nobody keeps up to date.
  select d.*, d.ready + d.deferred + d.in_flight as waiting, extract(epoch from clock_timestamp() - d.oldest_at)::double precision as oldest_s,
    concat_ws(' ', d.stage, nullif(d.stream, ''), nullif(d.provider, '')) as subject,
    format('%s of %s', d.stage, coalesce(nullif(d.stream, ''), 'all streams')) || coalesce(' to ' || nullif(d.provider, ''), '') as place
  from mail.depth d
  where d.measured_at > clock_timestamp() - interval '30 seconds' and not mail.rests(d.stage, d.stream)
), cap as materialized (
  -- No count goes further than it takes to know.
  select (2 * coalesce(max(threshold), 0) + 1000)::bigint as rows
  from mail.alert_rule
  where enabled and kind in ('dead_letters', 'feedback_parked', 'feedback_unmatched')
), dead_stream as (
  -- The streams there are in the index, each found by one step.
  select min(stream) as stream from mail.dead_letter
  union all
  select (select min(d.stream) from mail.dead_letter d where d.stream > s.stream) from dead_stream s where s.stream is not null
), timed as (
  select t.stream, sum(t.messages) as messages, mail.time_at(0.95, array_agg(t.bucket), array_agg(t.messages)) as p95_s
  from (
    select stream, bucket, sum(count) as messages
    from mail.tally_time, minute
    where kind = 'time_to_send' and bucket_at >= minute.until - interval '1 minute' and bucket_at < minute.until
    group by stream, bucket
  ) t
  group by t.stream
), passed as (
  select
    stream, case kind when 'sent' then 'dispatch' else 'processing' end as stage,
    coalesce(sum(count) filter (where bucket_at >= minute.until - interval '1 minute'), 0)::double precision as latest,
    (coalesce(sum(count) filter (where bucket_at < minute.until - interval '1 minute'), 0) / 10)::double precision as usual
  from mail.tally, minute
  where kind in ('sent', 'processed') and bucket_at >= minute.until - interval '11 minutes' and bucket_at < minute.until
  group by stream, kind
), reading (kind, subject, stream, provider, value, volume, what, detail) as (
  select
    'dead_letters', s.stream, s.stream, null::text, d.count::double precision, null::double precision,
    format('%s dead letters of stream %s wait for a person', d.count || case when d.count = cap.rows then ' or more' else '' end, s.stream),
    '{}'::jsonb
  from dead_stream s
  cross join cap
  cross join lateral (select count(*) from (select from mail.dead_letter d where d.stream = s.stream limit cap.rows) l) d
  where s.stream is not null
  union all
  select
    'dead_letter_growth', f.stream, f.stream, null, (sum(f.dead_per_s) * 60)::double precision, null,
    format('%s messages of stream %s became dead letters within a minute', round(sum(f.dead_per_s) * 60), f.stream), '{}'
  from flow f
  group by f.stream
  union all
  select
    'lag', d.subject, nullif(d.stream, ''), nullif(d.provider, ''), d.ready::double precision, null,
    format('%s messages wait in %s', d.ready, d.place), jsonb_build_object('stage', d.stage)
  from depth d
  union all
  select
    'oldest_age', d.subject, nullif(d.stream, ''), nullif(d.provider, ''), d.oldest_s, null,
    format('the oldest message in %s has waited for %s', d.place, mail.in_words(d.oldest_s)), jsonb_build_object('stage', d.stage)
  from depth d
  where d.oldest_at is not null and d.ready > 0
  union all
  select
    'growth', g.subject, nullif(g.stream, ''), nullif(g.provider, ''), g.growth_per_s::double precision, g.waiting::double precision,
    format('what waits in %s grows by %s messages a second, and is %s', g.place, g.growth_per_s, g.waiting), jsonb_build_object('stage', g.stage)
  from (select d.stage, d.stream, d.provider, d.subject, d.place, g.growth_per_s, g.waiting from depth d join mail.growth g using (stage, stream, provider)) g
  where g.growth_per_s is not null
  union all
  select
    'time_to_send', t.stream, t.stream, null, t.p95_s, t.messages::double precision,
    format('sending in stream %s takes %s (95 of 100 messages, from acceptance to the provider)', t.stream, mail.in_words(t.p95_s)), '{}'
  from timed t
  union all
  select
    'error_rate', concat_ws(' ', f.stream, nullif(f.provider, '')), f.stream, nullif(f.provider, ''), r.rate, r.attempts,
    format('%s %% of the last minute''s %s in stream %s%s failed', round((r.rate * 100)::numeric, 1),
      case f.provider when '' then 'messages processed' else 'attempts' end, f.stream, coalesce(' to ' || nullif(f.provider, ''), '')),
    '{}'
  from flow f
  cross join lateral (
    -- Before a provider is chosen a message is processed, once, and dead is the only way to fail.
    select
      (case f.provider when '' then greatest(f.processed_per_s, f.dead_per_s)
        else f.sent_per_s + f.deferred_per_s + f.unknown_per_s + f.dead_per_s end * 60)::double precision as attempts,
      (case f.provider when '' then f.dead_per_s / nullif(greatest(f.processed_per_s, f.dead_per_s), 0)
        else f.error_rate end)::double precision as rate
  ) r
  where r.rate is not null
  union all
  select
    'retry_rate', concat_ws(' ', f.stream, f.provider), f.stream, f.provider, f.retry_rate::double precision,
    ((f.sent_per_s + f.deferred_per_s + f.unknown_per_s + f.dead_per_s) * 60)::double precision,
    format('%s %% of the last minute''s attempts in stream %s to %s were repeats', round(f.retry_rate * 100, 1), f.stream, f.provider), '{}'
  from flow f
  where f.provider <> '' and f.retry_rate is not null
  union all
  select
    'rate_drop', concat_ws(' ', p.stage, p.stream), p.stream, null, 1 - p.latest / p.usual, p.usual,
    format('%s of stream %s fell to %s messages a minute from %s, while some wait', p.stage, p.stream, p.latest, round(p.usual)),
    jsonb_build_object('stage', p.stage)
  from passed p
  join mail.stream s on s.name = p.stream and s.paused_at is null
  where p.usual > 0
    and exists (select from depth d where d.stage = p.stage and d.stream = p.stream and d.ready > 0 and d.oldest_s > 30)
  union all
  select
    'breaker', s.provider, null, s.provider, case s.breaker when 'open' then 2 else 1 end, null,
    format('the breaker of provider %s is %s: mail goes to the next provider of its stream''s route, or waits', s.provider, replace(s.breaker, '_', '-')),
    '{}'
  from mail.provider_state s
  where s.breaker <> 'closed'
  union all
  select
    'provider_unusable', s.provider, null, s.provider, 1, null,
    format('a worker cannot use provider %s: its credentials are missing or wrong, and its mail waits', s.provider), '{}'
  from mail.provider_state s
  where s.unusable_reason is not null
  union all
  select
    'intake_loss', '', null, null, sum(l.at_most)::double precision, null,
    format('a crash of Postgres emptied the unlogged intake: from %s to %s buffered messages were lost', sum(l.at_least), sum(l.at_most)), '{}'
  from mail.intake_loss l
  where l.noticed_at > clock_timestamp() - interval '1 hour'
  having count(*) > 0
  union all
  select
    'intake_pressure', '', null, null,
    case when d.backlog > l.hard_backlog or d.oldest_s > l.hard_age_s then 2 when d.backlog > l.soft_backlog or d.oldest_s > l.soft_age_s then 1 else 0 end,
    null,
    format('%s messages wait at the doors, the oldest for %s: the API refuses %s', d.backlog, mail.in_words(d.oldest_s),
      case when d.backlog > l.hard_backlog or d.oldest_s > l.hard_age_s then 'all mail' else 'mail that is not urgent' end),
    '{}'
  from mail.intake_limit l
  cross join (select sum(ready) as backlog, coalesce(max(oldest_s), 0) as oldest_s from depth where stage = 'intake' having count(*) > 0) d
  union all
  select
    'long_transaction', coalesce('pid ' || t.pid, 'prepared ' || t.prepared), null, null, t.open_s, null,
    format('a transaction of role %s%s has been open for %s and keeps vacuum from cleaning up (%s)', t.role,
      coalesce(', application ' || nullif(t.application, ''), ''), mail.in_words(t.open_s),
      coalesce('pid ' || t.pid, 'prepared as ' || t.prepared)),
    '{}'
  from mail.old_transaction t
  where t.open_s is not null
  union all
  select
    'worker_died', '', null, null, count(*)::double precision, null,
    format('%s died within ten minutes, and %s given back; the latest was %s', case count(*) when 1 then 'a worker' else count(*) || ' workers' end,
      case count(*) when 1 then 'its work was' else 'their work was' end, (array_agg(w.name order by w.id desc))[1]),
    '{}'
  from mail.worker_death w
  where w.died_at > clock_timestamp() - interval '10 minutes'
  having count(*) > 0
  union all
  select
    'worker_silent', w.name, null, null, w.silent_s, null,
    format('worker %s has not been heard of for %s, and what it holds does not move', w.name, mail.in_words(w.silent_s)), '{}'
  from (select name, extract(epoch from clock_timestamp() - max(seen_at))::double precision as silent_s from mail.worker group by name) w
  union all
  select
    'no_worker', '', null, null, sum(d.waiting)::double precision, null,
    format('no worker runs, and %s messages wait', sum(d.waiting)), '{}'
  from depth d
  where d.stage <> 'intake' and (d.ready > 0 or d.in_flight > 0)
    and not exists (select from mail.worker w where w.seen_at > clock_timestamp() - interval '30 seconds')
  having sum(d.waiting) > 0
  union all
  select
    'endpoint_disabled', e.id::text, null, null, 1, null,
    format('webhook endpoint %s at %s was disabled, and is told of nothing', e.id, substring(e.url from '^https?://(?:[^/?#]*@)?([^/?#@]+)')),
    jsonb_build_object('endpoint', e.id)
  from mail.webhook_endpoint e
  -- By itself: a person who disables one says so, or leaves the reason as it is.
  where e.status = 'disabled' and e.failing_since is not null and e.disabled_reason <> 'by hand'
  union all
  select
    'feedback_parked', f.endpoint, null, null, count(*)::double precision, null,
    format('%s calls of webhook source %s could not be read or applied', count(*), f.endpoint), jsonb_build_object('endpoint', f.endpoint)
  from (select endpoint from mail.feedback where state = 'parked' limit (select rows from cap)) f
  group by f.endpoint
  union all
  select
    'feedback_unmatched', f.provider, null, f.provider, count(*)::double precision, null,
    format('%s events of provider %s within an hour were about no message that is known here', count(*), f.provider), '{}'
  from (
    select provider from mail.feedback_unmatched
    where received_at > clock_timestamp() - interval '1 hour' and message_id is null
    limit (select rows from cap)
  ) f
  group by f.provider
  union all
  select
    'partitions_missing', '', null, null, count(*)::double precision, null,
    format('%s daily partitions of the next days are missing, the first of %s', count(*), min(g.day)), '{}'
  from mail.partition_gap g
  having count(*) > 0
  union all
  select 'sending_held', '', null, null, 1, null, mail.why_held(), '{}'
  where mail.why_held() is not null
)
select
  r.name as rule, m.subject, m.stream, m.provider, m.value, r.threshold, coalesce(r.clear_at, r.threshold) as clear_at,
  m.what, m.detail || jsonb_build_object('stream', m.stream, 'provider', m.provider) as detail
from mail.alert_rule r
join reading m on m.kind = r.kind
left join mail.stream s on s.name = m.stream
where r.enabled
  and (r.stream is null or r.stream = m.stream)
  and (r.provider is null or r.provider = m.provider)
  and (r.urgent is null or r.urgent = (coalesce(s.priority, 5) <= 3))
  and coalesce(m.volume >= r.min_volume, true);
comment on view mail.alert_measure is
  'What each enabled rule measures now, subject by subject, and its limits. Costs the same however much is waiting.';

create view mail.alert_news as
select a.id as alert_id, t.id as target_id, e.event
from mail.alert a
join mail.alert_target t on t.enabled and (a.severity = 'critical' or t.min_severity = 'warning')
left join mail.alert_rule r on r.name = a.rule
left join lateral (
  select n.at from mail.alert_notice n where n.alert_id = a.id and n.target_id = t.id order by n.id desc limit 1
) told on true
cross join lateral (
  select case
    -- Nobody hears that something is over of which nobody heard that it began.
    when a.resolved_at is not null then case when told.at is not null then 'resolved' end
    when a.acknowledged_at is not null then null
    when told.at is null then 'fired'
    when told.at < clock_timestamp() - make_interval(secs => r.repeat_s) then 'reminded'
  end as event
) e
where e.event is not null
  and not exists (
    select from mail.alert_silence s
    where s.rule = a.rule and (s.subject is null or s.subject = a.subject) and s.until > clock_timestamp()
  )
  and (a.resolved_at is null or a.resolved_at > clock_timestamp() - interval '1 hour');
comment on view mail.alert_news is 'What each target has not heard yet (of what was resolved, also what it has).';

create function mail.evaluate_alerts()
returns table (event text, id uuid, rule text, subject text, severity text, value double precision, threshold double precision, what text)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
#variable_conflict use_column
declare
  moment timestamptz := clock_timestamp();
  measured mail.alert_measure[];
  fired uuid[];
  resolved uuid[];
begin
  -- Two that take themselves for the leader must not fire twice.
  perform from mail.latch l where l.name = 'evaluate_alerts' for update skip locked;
  if not found then
    return;
  end if;
  perform mail.note_snapshots();
  select coalesce(array_agg(m), '{}') into measured from mail.alert_measure m;

  -- Nobody looked for a minute: nobody knows whether it lasted.
  insert into mail.alert_pending as p (rule, subject, since, seen_at)
  select m.rule, m.subject, moment, moment from unnest(measured) m where m.value > m.threshold
  on conflict (rule, subject) do update
  set since = case when p.seen_at < moment - interval '1 minute' then moment else p.since end, seen_at = moment;
  delete from mail.alert_pending p where p.seen_at < moment;

  update mail.alert a
  set value = m.value, worst_value = greatest(a.worst_value, m.value), threshold = m.threshold, last_seen_at = moment, clear_since = null,
    what = mail.alert_sentence(m.what, a.since)
  from unnest(measured) m
  where a.resolved_at is null and (a.rule, a.subject) = (m.rule, m.subject) and m.value > m.clear_at;

  update mail.alert a set clear_since = moment
  where a.resolved_at is null and a.clear_since is null and a.last_seen_at < moment;

  with over as (
    update mail.alert a set resolved_at = moment
    where a.resolved_at is null
      and a.clear_since <= moment - make_interval(secs => coalesce(
        -- A rule that is gone or switched off has nothing to wait for.
        (select r.clear_for_s from mail.alert_rule r where r.name = a.rule and r.enabled), 0
      ))
    returning a.id
  )
  select coalesce(array_agg(over.id), '{}') into resolved from over;

  with new as (
    insert into mail.alert (rule, subject, severity, stream, provider, since, fired_at, last_seen_at, value, worst_value, threshold, what, command, page)
    select
      m.rule, m.subject, r.severity, m.stream, m.provider, p.since, moment, moment, m.value, m.value, m.threshold,
      mail.alert_sentence(m.what, p.since), mail.fill_command(r.command, m.detail), r.page
    from unnest(measured) m
    join mail.alert_rule r on r.name = m.rule
    join mail.alert_pending p on (p.rule, p.subject) = (m.rule, m.subject)
    where p.since <= moment - make_interval(secs => r.for_s)
    on conflict (rule, subject) where resolved_at is null do nothing
    returning id
  )
  select coalesce(array_agg(new.id), '{}') into fired from new;

  perform mail.tell_alerts(moment, resolved);
  return query
    select case when a.id = any (fired) then 'fired' else 'resolved' end, a.id, a.rule, a.subject, a.severity, a.value, a.threshold, a.what
    from mail.alert a
    where a.id = any (fired || resolved)
    order by a.id;
end
$$;
comment on function mail.evaluate_alerts() is
  'One look at all rules: notes what fires and what is over, and who is to be told; returns what changed. The leader calls it every five seconds.';

create function mail.alert_sentence(what text, since timestamptz) returns text
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select format('%s%s, since %s UTC.', upper(left(what, 1)), substr(what, 2), to_char(since at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'))
$$;
comment on function mail.alert_sentence(text, timestamptz) is 'What an alert says.';

create function mail.note_snapshots() returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  delete from mail.snapshot_seen s
  where not exists (
    select from pg_stat_activity a
    where a.pid = s.pid and coalesce(a.backend_xid, a.backend_xmin)::text::bigint = s.xid
  );
  insert into mail.snapshot_seen (pid, xid)
  select a.pid, coalesce(a.backend_xid, a.backend_xmin)::text::bigint
  from pg_stat_activity a
  where a.pid <> pg_backend_pid() and a.usesysid is not null and coalesce(a.backend_xid, a.backend_xmin) is not null
  on conflict do nothing
$$;
comment on function mail.note_snapshots() is 'Keeps mail.snapshot_seen.';

create function mail.tell_alerts(moment timestamptz, resolved uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  is_held boolean := mail.why_held() is not null;
  news mail.alert_news[];
begin
  delete from mail.alert_silence s where s.until < moment - interval '30 days';
  delete from mail.alert_delivery d where d.ended_at < moment - interval '30 days';
  delete from mail.worker_death w where w.died_at < moment - interval '30 days';

  select coalesce(array_agg(n), '{}') into news
  from mail.alert_news n
  where (n.event <> 'resolved' or n.alert_id = any (resolved))
    -- Of a database that went back in time the rest is about a past that is over: told after the release, if it lasts.
    and (not is_held or exists (
      select from mail.alert a join mail.alert_rule r on r.name = a.rule and r.kind = 'sending_held' where a.id = n.alert_id
    ));
  if cardinality(news) = 0 then
    return;
  end if;
  -- The update locks what gathers already, so that nobody begins to send it meanwhile.
  insert into mail.alert_delivery as d (target_id)
  select distinct n.target_id from unnest(news) n
  on conflict (target_id) where state = 'gathering' do update set next_attempt_at = d.next_attempt_at;
  insert into mail.alert_notice (alert_id, target_id, delivery_id, event)
  select n.alert_id, n.target_id, d.id, n.event
  from unnest(news) n
  join mail.alert_delivery d on d.target_id = n.target_id and d.state = 'gathering';
end
$$;
comment on function mail.tell_alerts(timestamptz, uuid[]) is 'Puts down which targets are to be told of what; these alerts were resolved just now.';

create function mail.acknowledge(id uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  update mail.alert a
  set acknowledged_at = clock_timestamp(), acknowledged_by = session_user
  where a.id = acknowledge.id and a.resolved_at is null and a.acknowledged_at is null;
  return found;
end
$$;
comment on function mail.acknowledge(uuid) is 'Somebody looks after this alert: nobody is reminded of it any more. False when it is over, or somebody did before.';

create function mail.silence(rule text, subject text default null, until timestamptz default now() + interval '1 hour') returns text
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  if not exists (select from mail.alert_rule r where r.name = silence.rule) then
    raise exception 'there is no alert rule %', silence.rule
      using errcode = 'undefined_object', hint = 'select name from mail.alert_rule shows what there is.';
  end if;
  if silence.until <= now() or silence.until > now() + interval '1 year' then
    raise exception 'until must be within the next year' using errcode = 'invalid_parameter_value';
  end if;
  delete from mail.alert_silence s where s.rule = silence.rule and s.subject is not distinct from silence.subject;
  insert into mail.alert_silence (rule, subject, until) values (silence.rule, silence.subject, silence.until);
  return format('nobody is told of %s%s until %s', silence.rule, coalesce(' about ' || silence.subject, ''), silence.until);
end
$$;
comment on function mail.silence(text, text, timestamptz) is
  'Nobody is told of the alerts of a rule, about one subject or about all (null), until then (an hour); what is still there then is told then.';

create function mail.unsilence(rule text, subject text default null) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  delete from mail.alert_silence s where s.rule = unsilence.rule and s.subject is not distinct from unsilence.subject and s.until > now();
  return found;
end
$$;
comment on function mail.unsilence(text, text) is 'Ends a silence; false when there is none.';

create function mail.provider_for_alerts() returns text
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  select r.name
  from mail.stream s
  cross join lateral unnest(s.route) with ordinality as r (name, place)
  join mail.provider p on p.name = r.name
  left join mail.provider_state st on st.provider = p.name
  cross join lateral mail.provider_hold(p.name) h
  where s.name = 'alerts' and h.until is null and st.unusable_reason is null and coalesce(st.breaker, 'closed') = 'closed'
  -- One that fails now and then is better than none.
  order by exists (
    select from mail.alert a
    join mail.alert_rule k on k.name = a.rule and k.kind in ('breaker', 'provider_unusable', 'error_rate', 'retry_rate')
    where a.resolved_at is null and a.provider = p.name
  ), r.place
  limit 1
$$;
comment on function mail.provider_for_alerts() is
  'The first provider on the route of stream alerts that is well, if possible one that no open alert is about: by it mail about alerts goes. Null: mail cannot go.';

create view mail.alerts_now as
select
  a.id, a.severity, a.rule, a.subject, a.since, a.what, a.command, a.page, a.acknowledged_at, a.acknowledged_by,
  (
    select max(s.until) from mail.alert_silence s
    where s.rule = a.rule and (s.subject is null or s.subject = a.subject) and s.until > now()
  ) as silenced_until,
  (
    select string_agg(
      format('%s: %s', n.name, case n.state
        when 'sent' then format('told at %s', n.ended_at)
        when 'failed' then format('given up: %s', n.last_error)
        else coalesce('not yet: ' || n.last_error, 'about to be told')
      end), '; ' order by n.name
    )
    from (
      select distinct on (t.id) t.name, d.state, d.ended_at, d.last_error
      from mail.alert_notice n
      join mail.alert_delivery d on d.id = n.delivery_id
      join mail.alert_target t on t.id = n.target_id
      where n.alert_id = a.id
      order by t.id, n.id desc
    ) n
  ) as told
from mail.alert a
where a.resolved_at is null
order by a.severity, a.fired_at;
comment on view mail.alerts_now is 'What is wrong at this moment, the critical first: what, since when, what to look at next, and who was told.';

insert into mail.alert_rule
  (name, kind, threshold, clear_at, min_volume, for_s, clear_for_s, severity, urgent, description, command, page)
values
  ('dead_letters', 'dead_letters', 100, 80, null, 0, 60, 'warning', null,
    'Messages of a stream that failed for good and wait for a person.',
    'select messages, stage, code, template, template_version, source, sample_reason, sample_id from mail.dlq_summary;', '/dashboard/dead-letters'),
  ('dead_letters_growing', 'dead_letter_growth', 10, 2, null, 0, 120, 'warning', null,
    'Messages of a stream that became dead letters within a minute: a broken template, an integration with bad data.',
    'select died_at, stage, code, reason, template, source from mail.dlq where stream = {stream} order by died_at desc limit 20;', '/dashboard/dead-letters'),
  ('lag', 'lag', 10000, 8000, null, 30, 60, 'warning', null,
    'Messages that could go on and wait in a stage.',
    'select * from mail.queue where stage = {stage} and stream = coalesce({stream}, stream); select provider, status, until, tokens, in_flight from mail.provider_status;', '/dashboard/streams'),
  ('waiting_long', 'oldest_age', 900, 600, null, 0, 60, 'warning', false,
    'Seconds the oldest message that could go on has waited, in streams that are not urgent.',
    'select * from mail.queue where stage = {stage} and stream = coalesce({stream}, stream); select provider, status, until, tokens, in_flight from mail.provider_status;', '/dashboard/streams'),
  ('urgent_waiting_long', 'oldest_age', 60, 30, null, 0, 60, 'critical', true,
    'The same in urgent streams (priority 0 to 3).',
    'select * from mail.queue where stage = {stage} and stream = coalesce({stream}, stream); select provider, status, until, tokens, in_flight from mail.provider_status;', '/dashboard/streams'),
  ('slow_sending', 'time_to_send', 30, 20, 10, 60, 120, 'warning', false,
    'Seconds from acceptance to the provider''s acceptance, the 95th percentile of the last minute, in streams that are not urgent.',
    'select * from mail.flow where stream = {stream}; select provider, status, until, tokens, in_flight from mail.provider_status;', '/dashboard/streams'),
  ('urgent_slow_sending', 'time_to_send', 5, 3, 5, 30, 120, 'critical', true,
    'The same in urgent streams.',
    'select * from mail.flow where stream = {stream}; select provider, status, until, tokens, in_flight from mail.provider_status;', '/dashboard/streams'),
  ('error_rate', 'error_rate', 0.05, 0.03, 20, 30, 120, 'warning', null,
    'Share of the last minute''s attempts that failed, by stream and provider.',
    'select type, detail ->> ''code'' as code, max(left(detail ->> ''reply'', 120)) as reply, count(*) from mail.event where message_id >= mail.uuid7_floor(now() - interval ''15 minutes'') and type in (''deferred'', ''unreachable'', ''unknown'', ''dead'') group by 1, 2 order by 4 desc limit 20;', '/dashboard/providers'),
  ('retry_rate', 'retry_rate', 0.2, 0.1, 20, 60, 120, 'warning', null,
    'Share of the last minute''s attempts that were not a message''s first.',
    'select type, detail ->> ''code'' as code, max(left(detail ->> ''reply'', 120)) as reply, count(*) from mail.event where message_id >= mail.uuid7_floor(now() - interval ''2 hours'') and type in (''deferred'', ''unreachable'', ''unknown'') group by 1, 2 order by 4 desc limit 20;', '/dashboard/providers'),
  ('growth', 'growth', 50, 10, 5000, 60, 120, 'warning', null,
    'Messages a second by which what waits in a stage grew over the last minute.',
    'select * from mail.growth where stage = {stage}; select provider, status, until, tokens, in_flight from mail.provider_status;', '/dashboard/streams'),
  ('rate_dropped', 'rate_drop', 0.5, 0.3, 60, 60, 120, 'warning', null,
    'Share by which a stream''s rate fell below the ten minutes before, while mail waits that could go on.',
    'select number, name, started_at, seen_at from mail.worker; select * from mail.queue where stage = {stage} and stream = {stream}; select provider, status, until, tokens, in_flight from mail.provider_status;', '/dashboard/streams'),
  ('breaker_open', 'breaker', 0, null, null, 0, 60, 'critical', null,
    'The breaker of a provider is open or half-open: it fails or cannot be reached.',
    'select * from mail.provider_status where provider = {provider}; select at, type, reason from mail.provider_event where provider = {provider} order by id desc limit 10;', '/dashboard/providers'),
  ('provider_unusable', 'provider_unusable', 0, null, null, 15, 30, 'critical', null,
    'A worker cannot use a provider: the variable with its credentials is not set there, or is wrong.',
    'select * from mail.provider_status where provider = {provider};', '/dashboard/providers'),
  ('intake_loss', 'intake_loss', 0, null, null, 0, 0, 'critical', null,
    'Buffered messages that a crash of Postgres took with it within the last hour, at most.',
    'select * from mail.intake_loss order by id desc limit 5;', '/'),
  ('intake_pressure', 'intake_pressure', 0, null, null, 5, 60, 'warning', null,
    'The doors are so full that the API refuses streams that are not urgent (1) or all mail (2).',
    'select * from mail.intake_pressure;', '/'),
  ('intake_refusing', 'intake_pressure', 1, null, null, 5, 60, 'critical', null,
    'The doors are so full that the API refuses all mail (2).',
    'select * from mail.intake_pressure;', '/'),
  ('long_transaction', 'long_transaction', 300, null, null, 0, 30, 'warning', null,
    'Seconds a transaction has been open that keeps vacuum from cleaning up, and the event feed from moving.',
    'select * from mail.old_transaction order by open_s desc;', '/'),
  ('worker_died', 'worker_died', 0, null, null, 0, 0, 'warning', null,
    'Workers that were found dead within the last ten minutes (others have taken over what they held).',
    'select number, name, died_at from mail.worker_death order by id desc limit 10; select number, name, started_at, seen_at from mail.worker;', '/dashboard/processes'),
  ('worker_silent', 'worker_silent', 30, null, null, 0, 30, 'critical', null,
    'Seconds a registered worker has not been heard of: it hangs, or died and no other worker is there to take over.',
    'select number, name, started_at, seen_at from mail.worker;', '/dashboard/processes'),
  ('no_worker', 'no_worker', 0, null, null, 15, 30, 'critical', null,
    'Messages wait, and no worker has been heard of for half a minute.',
    'select number, name, started_at, seen_at from mail.worker; select stage, stream, provider, ready, deferred from mail.depth order by ready desc;', '/dashboard/processes'),
  ('endpoint_disabled', 'endpoint_disabled', 0, null, null, 0, 0, 'warning', null,
    'A webhook endpoint of the app failed for so long that it was disabled.',
    'select * from mail.webhook_endpoint_status where id = {endpoint};', '/'),
  ('feedback_parked', 'feedback_parked', 10, 5, null, 0, 60, 'warning', null,
    'Calls of a provider''s webhook that could not be read or applied.',
    'select id, endpoint, received_at, reason from mail.feedback_parked where endpoint = {endpoint} order by id desc limit 20;', '/'),
  ('feedback_unmatched', 'feedback_unmatched', 100, 50, null, 0, 60, 'warning', null,
    'Events of a provider within the last hour about messages that are not known here: does another system send through the same account?',
    'select provider, key, received_at, tries from mail.feedback_unmatched where provider = {provider} and message_id is null order by id desc limit 20;', '/'),
  ('partitions_missing', 'partitions_missing', 0, null, null, 0, 0, 'critical', null,
    'Partitions of today and the next two days that are not there; mail.ensure_partitions() of mail_service makes them, and its log says why it could not.',
    'select * from mail.partition_gap order by day, parent; select * from mail.old_transaction order by open_s desc;', '/'),
  ('sending_held', 'sending_held', 0, null, null, 15, 0, 'critical', null,
    'Nothing is sent until a person says what is to become of the mail that waits: the database went back in time, or somebody held it.',
    'select * from mail.held; select * from mail.sending_hold order by id desc limit 5;', '/');
