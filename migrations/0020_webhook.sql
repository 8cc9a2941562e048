-- Webhooks to the app: who wants to hear of what, what was told, and how that went.

create table mail.webhook_endpoint (
  id uuid primary key default mail.uuid7(),
  url text not null
    constraint url_is_http_without_spaces check (url ~ '^https?://[^[:space:]]+$')
    constraint url_is_at_most_2000_long check (length(url) <= 2000),
  events text[]
    constraint events_is_null_or_names_some check (cardinality(events) > 0)
    constraint events_are_known check (events <@ array[
      'email.scheduled', 'email.sent', 'email.delivered', 'email.delivery_delayed', 'email.bounced', 'email.complained',
      'email.opened', 'email.clicked', 'email.unsubscribed', 'email.suppressed', 'email.failed', 'email.canceled'
    ]),
  status text not null default 'enabled'
    constraint status_is_enabled_or_disabled check (status in ('enabled', 'disabled')),
  description text
    constraint description_is_at_most_500_long check (length(description) <= 500),
  created_at timestamptz not null default clock_timestamp(),
  failures integer not null default 0,
  failing_since timestamptz,
  last_failure text,
  disabled_at timestamptz,
  disabled_reason text,
  skipped_from text,
  backfill_from text,
  backfill_since timestamptz,
  constraint disabled_endpoint_has_a_reason check ((status = 'disabled') = (disabled_reason is not null))
);
comment on table mail.webhook_endpoint is
  'URLs of the app that are told of events. Made by mail.webhook_create or POST /webhooks, which give its signing secret once.';
comment on column mail.webhook_endpoint.events is 'Null: all.';
comment on column mail.webhook_endpoint.failures is 'Attempts that failed since the last one that did not.';
comment on column mail.webhook_endpoint.failing_since is 'The first failure after the last success; after five days of failures it is disabled.';
comment on column mail.webhook_endpoint.skipped_from is 'Cursor of the first events it was not told of, being disabled: from where mail.webhook_replay looks.';
comment on column mail.webhook_endpoint.backfill_from is 'Cursor: what it missed is being made up for, from here.';

create table mail.webhook_secret (
  number bigint generated always as identity primary key,
  endpoint_id uuid not null references mail.webhook_endpoint (id) on delete cascade,
  secret text not null
    constraint secret_is_whsec_and_24_to_64_bytes check (secret ~ '^whsec_[A-Za-z0-9+/]{32,87}={0,2}$'),
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz
);
create index webhook_secret_of_endpoint on mail.webhook_secret (endpoint_id);
comment on table mail.webhook_secret is
  'What signs the requests to an endpoint: kept as it is, since it must be used, and readable by the service alone.';
comment on column mail.webhook_secret.expires_at is 'Set when a newer one took its place: until then both sign.';

create table mail.webhook_delivery (
  id text collate "C" primary key
    constraint id_is_msg_and_32_hex_digits check (id ~ '^msg_[0-9a-f]{32}$'),
  endpoint_id uuid not null,
  message_id uuid not null,
  event_id bigint not null,
  type text not null,
  payload json not null,
  state text not null default 'pending'
    constraint state_is_known check (state in ('pending', 'attempting', 'success', 'failed')),
  attempts integer not null default 0,
  tries integer not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  next_attempt_at timestamptz default clock_timestamp(),
  last_attempt_at timestamptz,
  last_status integer,
  last_error text
) with (fillfactor = 80);
create index webhook_delivery_of_endpoint on mail.webhook_delivery (endpoint_id, id);
comment on table mail.webhook_delivery is
  'One event told, or to be told, to one endpoint. How long is in mail.retention; the job that carries it out is in queue webhook.<endpoint>.';
comment on column mail.webhook_delivery.id is
  'The webhook-id of its requests, the same at every attempt and replay. Made of the time of the event, the event and the endpoint, so that an event can be there only once.';
comment on column mail.webhook_delivery.state is 'pending: not tried yet; attempting: failed so far, will be tried again; success; failed: given up.';
comment on column mail.webhook_delivery.attempts is 'Requests made for it, ever.';
comment on column mail.webhook_delivery.tries is 'Requests made since it was made or replayed: where it is in the schedule of retries.';

create table mail.webhook_attempt (
  delivery_id text collate "C" not null references mail.webhook_delivery (id) on delete cascade,
  number integer not null,
  at timestamptz not null,
  duration_ms integer not null,
  status integer,
  response text,
  error text,
  primary key (delivery_id, number)
);
comment on table mail.webhook_attempt is 'The latest 20 requests of each delivery, and what was answered: the first kilobyte.';

create view mail.webhook_endpoint_status as
select
  e.id,
  substring(e.url from '^https?://[^/?#]+') as host,
  e.status,
  e.events,
  e.description,
  job.waiting,
  job.oldest,
  e.failures,
  e.failing_since,
  e.failing_since + interval '5 days' as disabled_unless_well_by,
  e.last_failure,
  e.disabled_at,
  e.disabled_reason
from mail.webhook_endpoint e
cross join lateral (
  select count(*) as waiting, min(d.created_at) as oldest
  from pgboss.job j
  left join mail.webhook_delivery d on d.id = 'msg_' || replace(j.id::text, '-', '')
  where j.name = 'webhook.' || e.id and j.state < 'completed'
) job;
comment on view mail.webhook_endpoint_status is
  'Each webhook endpoint: what waits for it, since when it fails and why, and why it is disabled. Of the URL only the host: paths often hold a token.';

create function mail.webhook_new_secret() returns text
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  -- Three random uuids hold 366 random bits.
  select 'whsec_' || encode(
    sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64'
  )
$$;
comment on function mail.webhook_new_secret() is 'A signing secret of 32 bytes as Standard Webhooks writes it.';

create function mail.webhook_create(
  url text,
  events text[] default null,
  description text default null,
  out id uuid,
  out signing_secret text
)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  insert into mail.webhook_endpoint (url, events, description)
  values (webhook_create.url, webhook_create.events, webhook_create.description)
  returning webhook_endpoint.id into id;
  insert into mail.webhook_secret (endpoint_id, secret)
  values (webhook_create.id, mail.webhook_new_secret())
  returning secret into signing_secret;
end
$$;
comment on function mail.webhook_create(text, text[], text) is
  'Makes an endpoint that is told of events (null: all) from now on; returns its id and its signing secret, which is shown this once.';

create function mail.webhook_rotate(id uuid) returns text
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  fresh text;
begin
  -- One rotation of an endpoint at a time.
  perform from mail.webhook_endpoint e where e.id = webhook_rotate.id for update;
  if not found then
    return null;
  end if;
  -- Every secret is a signature in a header, which has its limits: the newest four and the new one.
  delete from mail.webhook_secret s
  where s.endpoint_id = webhook_rotate.id
    and (
      s.expires_at < now()
      or s.number not in (
        select k.number from mail.webhook_secret k where k.endpoint_id = webhook_rotate.id order by k.number desc limit 4
      )
    );
  update mail.webhook_secret s
  set expires_at = now() + interval '24 hours'
  where s.endpoint_id = webhook_rotate.id and s.expires_at is null;
  insert into mail.webhook_secret (endpoint_id, secret)
  values (webhook_rotate.id, mail.webhook_new_secret())
  returning secret into fresh;
  return fresh;
end
$$;
comment on function mail.webhook_rotate(uuid) is
  'A new signing secret, shown this once; the old one signs beside it for 24 hours. Null when there is no such endpoint.';

create function mail.webhook_remove(id uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  queue_name text := 'webhook.' || webhook_remove.id;
begin
  -- Nobody decides who is told of what meanwhile: jobs for a queue that goes would stay for ever.
  perform from mail.consumer where name = 'webhooks' for update;
  delete from mail.webhook_endpoint e where e.id = webhook_remove.id;
  if not found then
    return false;
  end if;
  -- First the jobs: whoever is taking some is waited for, and its claims are seen by the next statement.
  perform pgboss.delete_queue(q.name) from pgboss.queue q where q.name = queue_name;
  delete from mail.claim c where c.queue = queue_name;
  return true;
end
$$;
comment on function mail.webhook_remove(uuid) is
  'Removes an endpoint, its secrets and what waits for it; what it was told stays for its time. False when there is none.';

create function mail.webhook_enable(id uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  update mail.webhook_endpoint e
  set status = 'enabled', disabled_at = null, disabled_reason = null, failures = 0, failing_since = null
  where e.id = webhook_enable.id and e.status = 'disabled';
  return found;
end
$$;
comment on function mail.webhook_enable(uuid) is
  'Tells a disabled endpoint of events again, and goes on with what waits for it. What happened meanwhile: mail.webhook_replay.';

create function mail.webhook_disable(id uuid, reason text default 'by hand') returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  update mail.webhook_endpoint e
  set status = 'disabled', disabled_at = clock_timestamp(), disabled_reason = webhook_disable.reason
  where e.id = webhook_disable.id and e.status = 'enabled';
  return found;
end
$$;
comment on function mail.webhook_disable(uuid, text) is
  'Stops telling an endpoint of events, within a second. What waits for it stays.';

create function mail.webhook_requeue(endpoint uuid, ids text[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  queue text := 'webhook.' || endpoint;
  again text[];
begin
  with changed as (
    update mail.webhook_delivery d
    set state = 'pending', tries = 0, next_attempt_at = clock_timestamp()
    where d.id = any (ids) and d.endpoint_id = endpoint
    returning d.id
  )
  select coalesce(array_agg(changed.id order by changed.id), '{}') into again from changed;
  -- What waits for its next attempt goes at once; a request that is under way is left alone, and its job with it.
  delete from pgboss.job j
  where j.name = queue and j.state < 'active' and j.id in (select substr(a.id, 5)::uuid from unnest(again) a (id));
  insert into pgboss.job (
    name, id, start_after, keep_until, retry_limit, retry_delay, retry_backoff, expire_seconds, deletion_seconds, policy
  )
  select
    q.name, substr(a.id, 5)::uuid, now(), now() + make_interval(secs => q.retention_seconds),
    q.retry_limit, q.retry_delay, q.retry_backoff, q.expire_seconds, q.deletion_seconds, q.policy
  from unnest(again) a (id)
  join pgboss.queue q on q.name = queue
  on conflict do nothing;
  return cardinality(again);
end
$$;
comment on function mail.webhook_requeue(uuid, text[]) is 'What mail.webhook_replay does with the deliveries it picked.';

create function mail.webhook_must_be_enabled(endpoint uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  status text;
begin
  -- The endpoint before its deliveries, as everywhere: two that change these cannot wait for each other.
  select e.status into status from mail.webhook_endpoint e where e.id = endpoint for no key update;
  if status is null then
    raise exception 'there is no webhook endpoint %', endpoint using errcode = 'undefined_object';
  end if;
  if status = 'disabled' then
    raise exception 'webhook endpoint % is disabled', endpoint
      using errcode = 'object_not_in_prerequisite_state', hint = format('First: select mail.webhook_enable(%L).', endpoint);
  end if;
end
$$;
comment on function mail.webhook_must_be_enabled(uuid) is 'Raises unless the endpoint is there and enabled; locks it.';

create function mail.webhook_replay(delivery text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  endpoint uuid;
begin
  select d.endpoint_id into endpoint from mail.webhook_delivery d where d.id = delivery;
  if endpoint is null then
    return false;
  end if;
  perform mail.webhook_must_be_enabled(endpoint);
  return mail.webhook_requeue(endpoint, array[delivery]) = 1;
end
$$;
comment on function mail.webhook_replay(text) is
  'Tells an endpoint of one event again, delivered or not, under the same webhook-id and with the whole schedule of retries. False when it is not kept any more.';

create function mail.webhook_replay(endpoint uuid, since timestamptz) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  perform mail.webhook_must_be_enabled(endpoint);
  update mail.webhook_endpoint e
  set backfill_from = e.skipped_from, backfill_since = since
  where e.id = endpoint and e.skipped_from is not null;
  return mail.webhook_requeue(endpoint, array(
    select d.id
    from mail.webhook_delivery d
    where d.endpoint_id = endpoint and d.state <> 'success' and d.id >= mail.webhook_id_floor(since)
  ));
end
$$;
comment on function mail.webhook_replay(uuid, timestamptz) is
  'Tells an endpoint at once of all events since then that it does not have: what failed or waits for its next attempt (returns how many), and a moment later what happened while it was disabled.';

create function mail.webhook_id_floor(at timestamptz) returns text
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select 'msg_' || lpad(to_hex(greatest(floor(extract(epoch from at) * 1000), 0)::bigint), 12, '0') || repeat('0', 20)
$$;
comment on function mail.webhook_id_floor(timestamptz) is 'Smaller than the id of every delivery of an event from then on.';

insert into mail.consumer (name, cursor) values ('webhooks', '0:0');
