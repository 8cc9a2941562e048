-- What people use from psql, and SQL writers from their code.

create function mail.send(
  message jsonb,
  idempotency_key text default null,
  stream text default null,
  priority smallint default null
) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  known record;
  sent_id uuid;
begin
  if jsonb_typeof(send.message) <> 'object' then
    raise exception 'mail.send takes a JSON object, not %', jsonb_typeof(send.message)
      using errcode = 'invalid_parameter_value',
        hint = 'For example select mail.send(''{"from":"shop@example.com","to":"ann@example.com","subject":"Hello","text":"Hi"}'')';
  end if;
  if send.message -> 'to' is null or (send.message -> 'from' is null and send.message -> 'template' is null) then
    raise exception 'mail.send needs "to" in its message, and "from" unless a template is given'
      using errcode = 'invalid_parameter_value';
  end if;

  if send.idempotency_key is not null then
    -- The same key at the same moment waits here. The outbox is read before the settled keys: a row
    -- that the mover takes in between is then found settled.
    perform pg_advisory_xact_lock(hashtextextended(send.idempotency_key, 7461));
    select o.id, fingerprint(o.message::text) as fingerprint into known
    from mail.outbox o where o.idempotency_key = send.idempotency_key order by o.seq limit 1;
    if not found then
      select i.message_ids[1] as id, i.fingerprint into known
      from mail.idempotency i
      where i.scope = 'send' and i.key = send.idempotency_key and i.expires_at > clock_timestamp();
    end if;
    if found then
      if known.fingerprint <> fingerprint(send.message::text) then
        raise exception 'idempotency key % was used with another message', send.idempotency_key
          using errcode = 'unique_violation', hint = 'Use a new key for a new message.';
      end if;
      return known.id;
    end if;
  end if;

  insert into mail.outbox (message, stream, priority, idempotency_key, source)
  values (send.message::json, send.stream, send.priority, send.idempotency_key, session_user)
  returning id into sent_id;
  return sent_id;
end
$$;
comment on function mail.send(jsonb, text, text, smallint) is
  'Hands over a message durably, with the caller''s transaction; returns its id. With a key used before: the first message''s id.';

create function mail.without_addresses(words text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  select regexp_replace(words, '[^[:space:]<>"'':;,()]+@', '…@', 'g')
$$;
comment on function mail.without_addresses(text) is 'Words of somebody else, such as a relay''s, with the addresses in them cut down to their domains.';

create view mail.dlq as
select
  d.message_id, d.died_at, d.stage, d.code,
  -- Relays quote whom they refuse. Who may not look at the letters themselves is shown nobody's address.
  case when (select has_table_privilege('mail.dead_letter', 'select')) then d.reason else mail.without_addresses(d.reason) end as reason,
  d.attempts, d.template_version, d.stream, d.provider, d.template, d.source, d.recipient_domain,
  m.accepted_at
from mail.dead_letter d
join mail.message m on m.id = d.message_id
where m.status = 'dead';
comment on view mail.dlq is 'Messages that failed for good and wait for a person. For mail_reader, reasons come without addresses.';

create view mail.waiting_job as
select
  split_part(j.name, '.', 1) as stage,
  case split_part(j.name, '.', 1) when 'dispatch' then split_part(j.name, '.', 3) else split_part(j.name, '.', 2) end as stream,
  case split_part(j.name, '.', 1) when 'dispatch' then split_part(j.name, '.', 2) else '' end as provider,
  case split_part(j.name, '.', 1) when 'process' then jsonb_array_length(j.data -> 'ids') else 1 end as messages,
  j.state = 'active' as in_flight,
  j.start_after > now() as deferred,
  case when j.state = 'active' then j.started_on else greatest(j.created_on, j.start_after) end as since
from pgboss.job j
where j.state < 'completed'
  and split_part(j.name, '.', 1) in ('process', 'dispatch');
comment on view mail.waiting_job is 'The jobs of both queued stages in Sluice''s words; read mail.queue for the sums.';

create function mail.stream_is_free() returns trigger
language plpgsql
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  if exists (select from mail.waiting_job j where j.stream = old.name)
    or exists (select from mail.scheduled s where s.stream = old.name)
    or exists (select from mail.intake i where i.stream = old.name)
    or exists (select from mail.outbox o where o.stream = old.name) then
    raise exception 'mail of stream % is waiting', old.name
      using errcode = 'foreign_key_violation', hint = 'Wait until mail.queue shows none.';
  end if;
  return old;
end
$$;
create trigger stream_is_free before delete on mail.stream
for each row execute function mail.stream_is_free();

create view mail.queue as
with depth as (
  select
    'intake' as stage, coalesce(stream, '') as stream, '' as provider,
    count(*) as ready, 0::bigint as deferred, 0::bigint as in_flight, min(received_at) as oldest
  from (
    select stream, received_at from mail.intake
    union all
    select stream, received_at from mail.outbox
  ) waiting
  group by 2
  union all
  select
    'scheduled', stream, '',
    count(*) filter (where due_at <= now()), count(*) filter (where due_at > now()), 0,
    min(due_at) filter (where due_at <= now())
  from mail.scheduled
  group by stream
  union all
  select
    case stage when 'process' then 'processing' else stage end, stream, provider,
    coalesce(sum(messages) filter (where not in_flight and not deferred), 0),
    coalesce(sum(messages) filter (where not in_flight and deferred), 0),
    coalesce(sum(messages) filter (where in_flight), 0),
    min(since) filter (where not deferred)
  from mail.waiting_job
  group by 1, 2, 3
), rate as (
  select stage, stream, provider, sum(came_in) / 60.0 as in_per_s, sum(went_out) / 60.0 as out_per_s
  from mail.throughput
  where bucket_at > now() - interval '1 minute'
  group by 1, 2, 3
)
select
  stage,
  stream,
  provider,
  coalesce(d.ready, 0) as ready,
  coalesce(d.deferred, 0) as deferred,
  coalesce(d.in_flight, 0) as in_flight,
  now() - d.oldest as oldest_age,
  round(coalesce(r.in_per_s, 0), 1) as in_per_s,
  round(coalesce(r.out_per_s, 0), 1) as out_per_s
from depth d
full join rate r using (stage, stream, provider)
order by array_position(array['intake', 'scheduled', 'processing', 'dispatch'], stage), stream, provider;
comment on view mail.queue is
  'Where mail waits: messages ready, deferred (scheduled for later among them) and in flight per stage, stream and provider, the oldest one''s age, and the rates of the last minute.';

create function mail.why_not_sent(m mail.message) returns text
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  ready_since timestamptz := coalesce(m.next_attempt_at, m.queued_at);
  s mail.stream;
  is_urgent boolean;
  hold record;
  next_provider text;
  scarce record;
  ahead bigint;
  opens_at timestamptz := mail.window_opens(m.stream, now());
begin
  if mail.why_held() is not null then
    return format('Waiting: %s.', mail.why_held());
  end if;
  select * into s from mail.stream where name = m.stream;
  if s.paused_at is not null then
    return format('Waiting because stream %s was paused by %s at %s.', s.name, s.paused_by, s.paused_at);
  end if;
  if opens_at is not null then
    return format('Waiting for the send window of stream %s: it opens at %s.', m.stream, opens_at);
  end if;
  if not exists (select from mail.worker where seen_at > now() - interval '30 seconds') then
    return format('Ready to go to provider %s since %s, but no worker is running.', m.provider, ready_since);
  end if;

  -- Tokens are given by the stream's priority: a message's own only orders it within its stream.
  is_urgent := coalesce(s.priority, 5) <= 3;
  select h.* into hold from mail.provider_hold(m.provider, is_urgent) h;
  if hold.until is not null then
    select r.name into next_provider
    from unnest(s.route) with ordinality as r (name, place)
    cross join lateral mail.provider_hold(r.name) h
    where h.until is null and (select own.until from mail.provider_hold(m.provider) own) is not null
    order by r.place
    limit 1;
    return format('Waiting for provider %s%s: %s%s.', m.provider,
      case when hold.until = 'infinity' then '' else format(' until %s', hold.until) end, hold.reason,
      case when next_provider is not null then format('; %s is next on the route and takes it over', next_provider) end);
  end if;
  if exists (select from mail.provider_state st where st.provider = m.provider and st.breaker = 'half_open') then
    return format('Waiting for provider %s: its breaker is half-open, and a few probes find out whether it is back.', m.provider);
  end if;

  select coalesce(sum(messages), 0) into ahead
  from mail.waiting_job j
  where j.stage = 'dispatch' and j.stream = m.stream and j.provider = m.provider and not j.deferred
    and j.since < coalesce(
      (
        select greatest(own.created_on, own.start_after)
        from pgboss.job own
        where own.name = format('dispatch.%s.%s', m.provider, m.stream) and own.id = m.id
      ),
      ready_since
    );
  select l.name, l.rate_per_s, (ahead + 1 + kept.tokens - l.available) / l.rate_per_s as wait_s into scarce
  from mail.bucket_level l
  cross join lateral (select case when is_urgent then 0 else l.kept_for_urgent end as tokens) kept
  where l.provider = m.provider and l.available - kept.tokens < ahead + 1
  order by wait_s desc
  limit 1;
  if found then
    return format('Waiting for tokens of provider %s: bucket %s gives %s a second and about %s messages of stream %s are ahead, so no tokens until about %s.',
      m.provider, scarce.name, trim_scale(round(scarce.rate_per_s::numeric, 4)), ahead, m.stream,
      date_trunc('milliseconds', clock_timestamp() + make_interval(secs => least(scarce.wait_s, 1e9))));
  end if;
  return format('Ready to go to provider %s since %s, behind about %s messages of stream %s.', m.provider, ready_since, ahead, m.stream);
end
$$;
comment on function mail.why_not_sent(mail.message) is 'What mail.why says of a message that could be sent now.';

create function mail.why_not_processed(m mail.message) returns text
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  own_job record;
  ahead bigint;
begin
  select j.start_after, greatest(j.created_on, j.start_after) as since, j.data ->> 'because' as because into own_job
  from pgboss.job j
  where j.name = 'process.' || m.stream and j.state < 'completed' and j.data -> 'ids' ? m.id::text
  limit 1;
  if own_job.because is not null then
    return format('Waiting for an attachment: %s. It is fetched again at %s.', own_job.because, own_job.start_after);
  end if;
  if own_job.start_after > now() then
    return format('Sent again on request, at the pace that was asked for: it is processed at %s.', own_job.start_after);
  end if;
  if not exists (select from mail.worker where seen_at > now() - interval '30 seconds') then
    return format('Waiting to be processed in stream %s since %s, but no worker is running.', m.stream, coalesce(own_job.since, m.accepted_at));
  end if;
  select coalesce(sum(messages), 0) into ahead
  from mail.waiting_job j
  where j.stage = 'process' and j.stream = m.stream and not j.deferred and j.since < own_job.since;
  return format('Waiting to be processed in stream %s behind about %s messages, since %s.', m.stream, ahead, coalesce(own_job.since, m.accepted_at));
end
$$;
comment on function mail.why_not_processed(mail.message) is 'What mail.why says of a message that waits for processing.';

create function mail.why(id uuid) returns text
language plpgsql stable security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  m mail.message;
  d mail.dead_letter;
  w mail.worker;
  said text;
  opens_at timestamptz;
  then_opens text;
begin
  select * into m from mail.message where message.id = why.id;
  if not found then
    if exists (select from mail.intake i where i.id = why.id) or exists (select from mail.outbox o where o.id = why.id) then
      return 'Accepted a moment ago; the mover takes it next. If this lasts, no Sluice process is running against this database.';
    end if;
    return 'No message has this id: it was never accepted, its retention is over, it was erased, or it was a repeat under an idempotency key.';
  end if;

  case m.status
    when 'accepted' then
      return mail.why_not_processed(m);
    when 'scheduled' then
      opens_at := mail.window_opens(m.stream, m.scheduled_at);
      return case
        when m.scheduled_at > now() and opens_at is not null
          then format('Scheduled for %s: it is processed then, and sent when the send window of stream %s opens at %s.', m.scheduled_at, m.stream, opens_at)
        when m.scheduled_at > now() then format('Scheduled for %s: it is processed and sent then.', m.scheduled_at)
        when not exists (select from mail.worker where seen_at > now() - interval '30 seconds')
          then format('Due since %s, but no worker is running.', m.scheduled_at)
        else format('Due since %s, and taken up in turn with %s others that are due.', m.scheduled_at,
          (select count(*) from mail.scheduled s where s.due_at <= now() and s.message_id <> m.id))
      end;
    when 'queued' then
      return mail.why_not_sent(m);
    when 'sending' then
      select * into w from mail.worker where number = m.worker;
      return format('Being sent to provider %s by worker %s (%s) since %s, attempt %s.',
        m.provider, m.worker, coalesce(w.name, 'gone; its messages are about to be taken over'), m.claimed_at, m.attempts);
    when 'deferred' then
      if m.next_attempt_at <= now() then
        return mail.why_not_sent(m);
      end if;
      opens_at := mail.window_opens(m.stream, m.next_attempt_at);
      then_opens := format(', when the send window of stream %s opens at %s', m.stream, opens_at);
      if m.last_error = 'domain_limit' then
        return format('Deferred until %s because %s. It is sent then by itself%s.', m.next_attempt_at,
          (
            select j.data ->> 'because'
            from pgboss.job j
            where j.name = any (array(select format('dispatch.%s.%s', p.name, m.stream) from mail.provider p)) and j.id = m.id
            limit 1
          ),
          case when opens_at is not null then then_opens end);
      end if;
      select coalesce(e.detail ->> 'reply', e.detail ->> 'reason') into said
      from mail.event e
      where e.message_id = m.id and e.type in ('deferred', 'unreachable', 'unknown')
      order by e.at desc, e.id desc
      limit 1;
      return format('Deferred until %s because of %s%s; attempts counted: %s of %s. It is tried again by itself%s.',
        m.next_attempt_at, m.last_error, ' (' || said || ')', m.attempts,
        (select attempts from mail.stream where name = m.stream),
        case when opens_at is not null then then_opens end);
    when 'unknown' then
      return format('Nobody can know whether provider %s took it: %s. Stream %s holds such messages: settle it with mail.settle_unknown(id, ''sent'' or ''retry'').',
        m.provider, m.last_error, m.stream);
    when 'dead' then
      select * into d from mail.dead_letter where message_id = m.id;
      return format('Dead since %s: failed in %s with %s: %s%s', d.died_at, d.stage, d.code, d.reason,
        case when not exists (select from mail.message_content c where c.id = m.id and c.removed_at is null)
          then ' (Its content was removed, so it cannot be sent again.)' end);
    when 'suppressed' then
      return 'Not sent: every recipient is on the suppression list.';
    when 'canceled' then
      return 'Canceled before it was sent.';
    when 'sent' then
      return format('Not waiting: provider %s accepted it at %s.', m.provider, m.sent_at);
    else
      return format('Not waiting: %s.', m.status);
  end case;
end
$$;
comment on function mail.why(uuid) is 'One sentence: why this message is waiting, and until when; or how it ended.';

create function mail.plain_address(address text) returns text
language plpgsql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  plain text := lower(btrim(plain_address.address, E' \t\r\n'));
begin
  -- As the table demands it: anything else would never match a message.
  if plain ~ '^[!-;=?A-~]+@[a-z0-9.-]+$' then
    return plain;
  end if;
  raise exception '% is not a plain address', coalesce(quote_literal(plain), 'null')
    using errcode = 'invalid_parameter_value',
      hint = 'Give local@domain without a name or brackets; an internationalised domain in its xn-- form, such as ann@xn--bcher-kva.example.';
end
$$;
comment on function mail.plain_address(text) is 'An address as the suppression list holds it; refuses what is none.';

create function mail.suppress(
  address text,
  reason text default 'manual',
  scope text default '*',
  origin text default 'manual',
  evidence jsonb default null,
  expires_at timestamptz default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  perform mail.store_suppressions(json_build_array(json_build_object(
    'address', mail.plain_address(suppress.address), 'scope', suppress.scope, 'origin', suppress.origin,
    'reason', suppress.reason, 'source', session_user, 'evidence', suppress.evidence, 'expires_at', suppress.expires_at
  )));
end
$$;
comment on function mail.suppress(text, text, text, text, jsonb, timestamptz) is
  'No more mail to this address, in every stream or in the one named, for ever or until a time. Safe to repeat.';

create function mail.unsuppress(address text, scope text default '*') returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  plain text := lower(btrim(unsuppress.address, E' \t\r\n'));
  was_listed boolean;
begin
  with gone as (
    delete from mail.suppression s where s.address = plain and s.scope = unsuppress.scope returning 1
  ), erased as (
    delete from mail.suppression_hash h
    where h.id in (select e.id from mail.erased_suppressions(array[plain]) e where e.scope = unsuppress.scope)
    returning 1
  )
  select exists (select from gone) or exists (select from erased) into was_listed;
  return was_listed;
end
$$;
comment on function mail.unsuppress(text, text) is 'Takes an address off the list; false when it was not on it.';
