-- What providers tell us afterwards: who may tell it, what was told, what could not be read.

create table mail.webhook_source (
  name text primary key
    constraint source_name_is_short_and_plain check (name ~ '^[a-z0-9_-]{1,64}$'),
  kind text not null
    constraint source_kind_is_known check (kind in ('ses', 'sendgrid', 'mailgun', 'postmark', 'resend', 'generic', 'dsn')),
  provider text references mail.provider on update cascade on delete set null,
  secrets_env text
    constraint secrets_env_is_a_variable_name check (secrets_env ~ '^[A-Z_][A-Z0-9_]*$'),
  options jsonb not null default '{}'
    constraint source_options_are_an_object check (jsonb_typeof(options) = 'object'),
  created_at timestamptz not null default now(),
  constraint ses_source_has_topic_arns check (
    kind <> 'ses'
    or coalesce(
      jsonb_typeof(options -> 'topic_arns') = 'array'
      and options -> 'topic_arns' <> '[]'
      and not jsonb_path_exists(
        options,
        '$.topic_arns[*] ? (@.type() != "string" || !(@ like_regex "^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]+:[A-Za-z0-9_-]+([.]fifo)?$"))'
      ),
      false
    )
  ),
  constraint requires_bounce_address_is_true_or_false check (
    coalesce(jsonb_typeof(options -> 'requires_bounce_address') = 'boolean', true)
  ),
  constraint source_names_the_variable_of_its_secrets check (kind in ('ses', 'dsn') or secrets_env is not null)
);
comment on table mail.webhook_source is
  'Who may tell us what became of mail: each row is an address POST /webhooks/<kind>/<name>, proved by a signature or credentials.';
comment on column mail.webhook_source.provider is 'The provider these events are about; null when several send through one account.';
comment on column mail.webhook_source.secrets_env is
  'Name of the environment variable with the secret or public key; several, by spaces or commas, while one replaces another. Never the secret itself. Of dsn: null when only API keys may bring reports.';
comment on column mail.webhook_source.options is 'ses: {"topic_arns": [...]}, the only SNS topics that are believed. dsn: {"requires_bounce_address": true}, only mail that came back to the bounce address of a message is.';

create table mail.feedback (
  id bigint generated always as identity primary key,
  received_at timestamptz not null default clock_timestamp(),
  applied_at timestamptz,
  endpoint text not null,
  kind text not null,
  event_key text not null
    constraint event_key_is_1_to_300_long check (length(event_key) between 1 and 300),
  state text not null default 'waiting'
    constraint feedback_state_is_known check (state in ('waiting', 'applied', 'parked')),
  reason text,
  body bytea not null,
  constraint feedback_is_stored_once unique (endpoint, event_key),
  constraint parked_feedback_has_a_reason check (state <> 'parked' or reason is not null)
);
create index feedback_in_time on mail.feedback using brin (received_at);
create index feedback_not_applied on mail.feedback (endpoint, id) where state <> 'applied';
comment on table mail.feedback is
  'Each delivery of a webhook whose proof was right, once, as it came. How long is in mail.retention; keeping applied ones keeps their keys from being used again.';
comment on column mail.feedback.event_key is 'The delivery''s own id, or a digest of it: a repeat is stored once.';
comment on column mail.feedback.reason is 'Why it is parked; of applied ones, what there was nothing to do about.';
comment on column mail.feedback.body is 'The raw bytes that were verified; of a mail (dsn) its first 256 KiB. Emptied when it was applied and is about sensitive mail.';

create table mail.webhook_refusal (
  endpoint text not null references mail.webhook_source on update cascade on delete cascade,
  reason text not null,
  refused bigint not null,
  first_at timestamptz not null default clock_timestamp(),
  last_at timestamptz not null default clock_timestamp(),
  primary key (endpoint, reason)
) with (fillfactor = 50);
comment on table mail.webhook_refusal is 'Deliveries without proof, counted by what was wrong with them; the sender is only told 401.';

create view mail.feedback_parked as
select id, endpoint, kind, received_at, reason, octet_length(body) as bytes
from mail.feedback
where state = 'parked';
comment on view mail.feedback_parked is
  'Deliveries that could not be read or applied, and why; mail.feedback_retry takes them up again.';

create view mail.webhook_status as
select
  s.name as endpoint,
  s.kind,
  s.provider,
  format('/webhooks/%s/%s', s.kind, s.name) as path,
  coalesce(f.waiting, 0) as waiting,
  coalesce(f.parked, 0) as parked,
  coalesce(r.refused, 0) as refused,
  r.last_refused_at,
  r.last_refusal
from mail.webhook_source s
left join lateral (
  select count(*) filter (where state = 'waiting') as waiting, count(*) filter (where state = 'parked') as parked
  from mail.feedback
  where endpoint = s.name and state <> 'applied'
) f on true
left join lateral (
  select
    sum(refused)::bigint as refused, max(last_at) as last_refused_at,
    (array_agg(reason order by last_at desc))[1] as last_refusal
  from mail.webhook_refusal
  where endpoint = s.name
) r on true;
comment on view mail.webhook_status is
  'Each webhook source: its address, what waits to be applied, what is parked, how much was refused and the latest reason.';

create function mail.feedback_retry(endpoint text default null, max integer default 10000) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  again bigint[];
begin
  with chosen as materialized (
    select f.id from mail.feedback f
    where f.state = 'parked' and (feedback_retry.endpoint is null or f.endpoint = feedback_retry.endpoint)
    order by f.id
    limit feedback_retry.max
    for update skip locked
  ), changed as (
    update mail.feedback f set state = 'waiting', reason = null from chosen where f.id = chosen.id returning f.id
  )
  select array_agg(id order by id) into again from changed;

  insert into pgboss.job (
    name, data, keep_until, retry_limit, retry_delay, retry_backoff, expire_seconds, deletion_seconds, policy
  )
  select
    q.name, jsonb_build_object('ids', jsonb_agg(given.id::text order by given.id)), now() + make_interval(secs => q.retention_seconds),
    q.retry_limit, q.retry_delay, q.retry_backoff, q.expire_seconds, q.deletion_seconds, q.policy
  from unnest(again) with ordinality as given (id, place)
  join pgboss.queue q on q.name = 'feedback'
  group by q.name, q.retention_seconds, q.retry_limit, q.retry_delay, q.retry_backoff, q.expire_seconds, q.deletion_seconds, q.policy,
    (given.place - 1) / 100;
  return coalesce(cardinality(again), 0);
end
$$;
comment on function mail.feedback_retry(text, integer) is
  'Takes parked deliveries up again, of one endpoint or of all, the oldest first; returns how many. What was applied before is not applied twice.';
