-- Finding out and repairing from psql: pause and resume, the state of providers, dead letters in groups,
-- retry and discard.

create function mail.pause(name text, kind text default null) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  if mail.kind_of(name, kind) = 'provider' then
    update mail.provider p set paused_at = now(), paused_by = session_user
    where p.name = pause.name and p.paused_at is null;
    if found then
      insert into mail.provider_event (provider, type, reason) values (pause.name, 'paused', format('by %s', session_user));
    end if;
    return format('provider %s is paused; its mail waits, or goes to the next provider of its stream''s route', name);
  end if;
  update mail.stream s set paused_at = now(), paused_by = session_user
  where s.name = pause.name and s.paused_at is null;
  return format('stream %s is paused; its mail is accepted, and waits', name);
end
$$;
comment on function mail.pause(text, text) is
  'Stops sending through a provider, or of a stream, within a second. Name the kind when both have that name. Safe to repeat.';

create function mail.resume(name text, kind text default null) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  if mail.kind_of(name, kind) = 'provider' then
    update mail.provider p set paused_at = null, paused_by = null
    where p.name = resume.name and p.paused_at is not null;
    if found then
      insert into mail.provider_event (provider, type, reason) values (resume.name, 'resumed', format('by %s', session_user));
    end if;
    update mail.provider_state st set blocked_until = null, blocked_reason = null where st.provider = resume.name;
    return format('provider %s is sending again', name);
  end if;
  update mail.stream s set paused_at = null, paused_by = null where s.name = resume.name;
  return format('stream %s is sending again', name);
end
$$;
comment on function mail.resume(text, text) is
  'Lets a paused provider or stream send again; of a provider, forgets also what it asked us to wait. Safe to repeat.';

create function mail.kind_of(name text, kind text) returns text
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  is_provider boolean := exists (select from mail.provider p where p.name = kind_of.name);
  is_stream boolean := exists (select from mail.stream s where s.name = kind_of.name);
begin
  if kind not in ('provider', 'stream') then
    raise exception 'kind is provider or stream, not %', kind using errcode = 'invalid_parameter_value';
  end if;
  if kind is null and is_provider and is_stream then
    raise exception 'both a provider and a stream are called %', name
      using errcode = 'ambiguous_alias', hint = format('Say which: (%L, ''provider'') or (%L, ''stream'').', name, name);
  end if;
  if is_provider and coalesce(kind, 'provider') = 'provider' then
    return 'provider';
  end if;
  if is_stream and coalesce(kind, 'stream') = 'stream' then
    return 'stream';
  end if;
  raise exception 'there is no % called %', coalesce(kind, 'provider or stream'), coalesce(name, 'null')
    using errcode = 'undefined_object';
end
$$;
comment on function mail.kind_of(text, text) is
  'Whether a name means a provider or a stream; refuses one that means nothing, or both when the kind is not said.';

create function mail.use_retry_preset(stream text, preset text) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  case preset
    when 'quick' then
      update mail.stream s set attempts = 3, backoff_base_s = 30, backoff_factor = 4, backoff_cap_s = 600, max_age_s = 86400
      where s.name = use_retry_preset.stream;
    when 'patient' then
      update mail.stream s set attempts = 12, backoff_base_s = 300, backoff_factor = 2, backoff_cap_s = 14400, max_age_s = 259200
      where s.name = use_retry_preset.stream;
    else
      raise exception 'there is no preset %', preset
        using errcode = 'invalid_parameter_value', hint = 'The presets are quick and patient.';
  end case;
  if not found then
    raise exception 'there is no stream %', stream using errcode = 'undefined_object';
  end if;
end
$$;
comment on function mail.use_retry_preset(text, text) is
  'quick: 3 attempts within minutes. patient: 12 over hours, for relays that grey-list.';

create view mail.provider_status as
select
  p.name as provider,
  p.transport,
  coalesce(s.unusable_reason, h.reason, case when s.breaker = 'half_open' then 'its breaker is half-open: probes find out whether it is back' end, 'sending') as status,
  h.until,
  coalesce(s.breaker, 'closed') as breaker,
  (select coalesce(sum(w.requests), 0) from mail.provider_window w where w.provider = p.name and w.second > extract(epoch from now()) - 60) as requests_60s,
  (select coalesce(sum(w.faults), 0) from mail.provider_window w where w.provider = p.name and w.second > extract(epoch from now()) - 60) as faults_60s,
  s.remaining,
  (
    select string_agg(
      format('%s: %s of %s, %s a second', l.name, round(l.available::numeric, 1), round(l.capacity::numeric, 1), round(l.rate_per_s::numeric, 2)),
      '; ' order by l.name
    )
    from mail.bucket_level l where l.provider = p.name
  ) as tokens,
  (select coalesce(sum(q.in_flight), 0) from mail.queue q where q.stage = 'dispatch' and q.provider = p.name) as in_flight
from mail.provider p
left join mail.provider_state s on s.provider = p.name
cross join lateral mail.provider_hold(p.name, false) h;
comment on view mail.provider_status is
  'Each provider: sending, or why not and until when; breaker, requests and faults of the last minute, tokens, mail in flight.';

create function mail.most_common(counts jsonb) returns text
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select string_agg(
    case when place <= 3 then format('%s %s', key, value) when place = 4 then format('%s more', total - 3) end, ', ' order by place
  )
  from (
    select key, value, count(*) over () as total, row_number() over (order by value::bigint desc, key) as place
    from jsonb_each_text(counts)
  ) counted
$$;
comment on function mail.most_common(jsonb) is 'The three largest of some counts in words: gmail.com 310, gmx.de 12, web.de 9, 4 more.';

create view mail.dlq_summary as
with letter as (
  -- Where it failed says what the failures of a group have in common: in processing the template, whoever
  -- used it; before and after that the source, whatever it sent. Where to is never the cause of the first.
  select
    *,
    case when stage = 'processing' then template end as by_template,
    case when stage = 'processing' then template_version end as by_version,
    case when stage <> 'processing' then source end as by_source
  from mail.dlq
), by_domain as (
  select
    stage, code, by_template, by_version, by_source, recipient_domain,
    count(*) as messages,
    min(died_at) as first_seen,
    max(died_at) as last_seen,
    min(template) as least_template, max(template) as greatest_template, count(template) as with_template,
    min(template_version) as least_version, max(template_version) as greatest_version, count(template_version) as with_version,
    min(source) as least_source, max(source) as greatest_source,
    (array_agg(message_id order by died_at desc))[1] as sample_id,
    (array_agg(reason order by died_at desc))[1] as sample_reason
  from letter
  group by stage, code, by_template, by_version, by_source, recipient_domain
)
select
  stage,
  code,
  case when min(least_template) = max(greatest_template) and sum(with_template) = sum(messages) then min(least_template) end as template,
  case when min(least_version) = max(greatest_version) and sum(with_version) = sum(messages) then min(least_version) end as template_version,
  case when min(least_source) = max(greatest_source) then min(least_source) end as source,
  case when count(*) = 1 then min(recipient_domain) end as recipient_domain,
  sum(messages)::bigint as messages,
  min(first_seen) as first_seen,
  max(last_seen) as last_seen,
  (array_agg(sample_id order by last_seen desc))[1] as sample_id,
  (array_agg(sample_reason order by last_seen desc))[1] as sample_reason,
  mail.most_common(jsonb_object_agg(recipient_domain, messages) filter (where recipient_domain is not null)) as recipient_domains
from by_domain
group by stage, code, by_template, by_version, by_source
order by messages desc;
comment on view mail.dlq_summary is
  'Dead letters that have a cause in common, the largest group first: a broken template, an integration with bad addresses. A column is empty where the group differs in it.';

create function mail.dlq_match(d mail.dead_letter, filter jsonb) returns boolean
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select not exists (
    select from jsonb_each_text(filter) f
    where case f.key
      when 'stage' then d.stage is distinct from f.value
      when 'code' then d.code is distinct from f.value
      when 'template' then d.template is distinct from f.value
      when 'template_version' then d.template_version::text is distinct from f.value
      when 'stream' then d.stream is distinct from f.value
      when 'provider' then d.provider is distinct from f.value
      when 'source' then d.source is distinct from f.value
      when 'recipient_domain' then d.recipient_domain is distinct from f.value
      when 'since' then d.died_at < f.value::timestamptz
      when 'until' then d.died_at >= f.value::timestamptz
    end
  )
$$;
comment on function mail.dlq_match(mail.dead_letter, jsonb) is 'Whether a dead letter fits a filter, each key of which must be equal; see mail.check_dlq_filter for the keys.';

create function mail.check_dlq_filter(filter jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  wrong text;
begin
  if jsonb_typeof(filter) is distinct from 'object' then
    raise exception 'the filter must be a JSON object such as {"code": "template_failed"}' using errcode = 'invalid_parameter_value';
  end if;
  select f.key into wrong from jsonb_object_keys(filter) as f (key)
  where f.key not in ('stage', 'code', 'template', 'template_version', 'stream', 'provider', 'source', 'recipient_domain', 'since', 'until')
  limit 1;
  if wrong is not null then
    raise exception 'dead letters cannot be filtered by "%"', wrong
      using errcode = 'invalid_parameter_value',
        hint = 'Use stage, code, template, template_version, stream, provider, source, recipient_domain, since, until.';
  end if;
  select f.key into wrong from jsonb_each(filter) as f (key, value)
  where jsonb_typeof(f.value) not in ('string', 'number', 'null')
    or (f.key in ('since', 'until') and jsonb_typeof(f.value) <> 'string')
  limit 1;
  if wrong is not null then
    raise exception 'the filter "%" must be one value, not %', wrong, filter -> wrong
      using errcode = 'invalid_parameter_value',
        hint = 'Text, a number, or null for dead letters that have none; a time for since and until.';
  end if;
  -- Read here for the error, also when there is nothing to compare with.
  perform (filter ->> 'since')::timestamptz, (filter ->> 'until')::timestamptz;
end
$$;
comment on function mail.check_dlq_filter(jsonb) is 'Refuses a filter for dead letters that is not understood.';

create function mail.dlq_pick(filter jsonb, max integer) returns setof uuid
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  perform mail.check_dlq_filter(filter);
  if max is null and filter = '{}' then
    raise exception 'this would take every dead letter' using errcode = 'invalid_parameter_value', hint = 'Give a filter, or say how many at most.';
  end if;
  if max < 1 then
    raise exception 'max must be at least 1' using errcode = 'invalid_parameter_value';
  end if;
  return query
    select d.message_id from mail.dead_letter d
    where mail.dlq_match(d, filter)
    order by d.died_at, d.message_id
    limit max
    for update skip locked;
  if not found then
    raise exception 'no dead letter matches %', filter
      using errcode = 'no_data_found', hint = 'select * from mail.dlq_summary shows what there is.';
  end if;
end
$$;
comment on function mail.dlq_pick(jsonb, integer) is
  'Locks the oldest dead letters that match, at most so many; whoever comes second passes over them.';

create function mail.enqueue_processing(ids uuid[], per_second double precision) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  lost text;
begin
  -- Without its queue the message would wait for ever, in no queue at all.
  select m.stream into lost
  from mail.message m
  where m.id = any (ids)
    and not exists (
      select from mail.stream s join pgboss.queue q on q.name = 'process.' || s.name where s.name = m.stream
    )
  limit 1;
  if lost is not null then
    raise exception 'stream % does not exist any more', lost
      using errcode = 'object_not_in_prerequisite_state',
        hint = format('Make it again (insert into mail.stream (name) values (%L)) and retry a few seconds later.', lost);
  end if;
  -- One job a message, as a batch that failed must not fail again together; started in the order given.
  insert into pgboss.job (
    name, data, priority, start_after, keep_until, retry_limit, retry_delay, retry_backoff, expire_seconds, deletion_seconds, policy
  )
  select
    q.name, jsonb_build_object('ids', jsonb_build_array(m.id)), 9 - m.priority,
    now() + make_interval(secs => (given.place - 1) / per_second), now() + make_interval(secs => q.retention_seconds),
    q.retry_limit, q.retry_delay, q.retry_backoff, q.expire_seconds, q.deletion_seconds, q.policy
  from unnest(ids) with ordinality as given (id, place)
  join mail.message m on m.id = given.id
  join pgboss.queue q on q.name = 'process.' || m.stream
  where m.id = any (ids);
end
$$;
comment on function mail.enqueue_processing(uuid[], double precision) is
  'Puts messages on the processing queues of their streams, in this order, so many a second over all of them.';

create function mail.revive_refused(ids uuid[]) returns integer
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  revived integer;
begin
  with given as (
    delete from mail.dead_letter d
    -- What was sensitive and could not be encrypted was not kept: there is nothing to try again with.
    where d.message_id = any (ids) and d.stage = 'intake' and d.code <> 'no_encryption_key'
    returning d.message_id, d.source
  ), message as (
    delete from mail.message m using given
    where m.id = given.message_id and m.id = any (ids)
    returning m.id, m.accepted_at, m.stream, m.priority
  ), content as (
    delete from mail.message_content c using given
    where c.id = given.message_id and c.id = any (ids)
    returning c.id, case when c.sealed is null then c.message else (c.message::jsonb || jsonb_build_object('sealed', c.sealed))::json end as json
  ), event as (
    insert into mail.event (message_id, type, detail)
    select message_id, 'retried', json_build_object('by', session_user) from given
  ), door as (
    insert into mail.outbox (id, received_at, message, stream, priority, source)
    select given.message_id, message.accepted_at, content.json, message.stream, message.priority, given.source
    from given
    join message on message.id = given.message_id
    join content on content.id = given.message_id
    returning 1
  )
  select count(*) into revived from door;
  return revived;
end
$$;
comment on function mail.revive_refused(uuid[]) is
  'Puts what the intake could not understand through the door again, under its old id.';

create function mail.revive(ids uuid[], per_second double precision) returns integer
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  whole uuid[];
  again uuid[];
begin
  -- In their order. Retention leaves the content of dead letters alone; a person may not have.
  whole := array(
    select given.id
    from unnest(ids) with ordinality as given (id, place)
    where exists (select from mail.message_content c where c.id = given.id and c.removed_at is null)
    order by given.place
  );
  if whole = '{}' and ids <> '{}' then
    raise exception 'the content of message % was removed, so it cannot be sent again', ids[1]
      using errcode = 'object_not_in_prerequisite_state',
        hint = format('Hand it in anew, and give this one up: select mail.dlq_discard(%L).', ids[1]);
  end if;
  ids := whole;
  with given as (
    delete from mail.dead_letter d where d.message_id = any (ids) and d.stage <> 'intake' returning d.message_id
  ), message as (
    -- From processing on: with the template as it is published now, and the suppression list as it is now.
    update mail.message m
    set status = 'accepted', attempts = 0, last_error = null, provider = null, template_version = null, next_attempt_at = null
    from given
    where m.id = given.message_id and m.id = any (ids) and m.status = 'dead'
    returning m.id
  ), prepared as (
    -- Nothing may be left of it: processing writes no row for a message that goes out as it was accepted.
    delete from mail.message_prepared p using given where p.id = given.message_id and p.id = any (ids)
  ), event as (
    insert into mail.event (message_id, type, detail)
    select id, 'retried', json_build_object('by', session_user) from message
  )
  select coalesce(array_agg(message.id order by picked.place), '{}') into again
  from message
  join unnest(ids) with ordinality as picked (id, place) using (id);
  perform mail.enqueue_processing(again, per_second);
  return cardinality(again) + mail.revive_refused(ids);
end
$$;
comment on function mail.revive(uuid[], double precision) is 'What mail.dlq_retry does with the messages it picked.';

create function mail.dlq_retry(id uuid) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  picked uuid;
begin
  select d.message_id into picked from mail.dead_letter d where d.message_id = dlq_retry.id for update;
  return picked is not null and mail.revive(array[picked], 1) = 1;
end
$$;
comment on function mail.dlq_retry(uuid) is 'Sends one dead letter again, from processing on; false when it is not dead any more. Twice sends once: who comes second waits for the first.';

create function mail.dlq_retry(filter jsonb, max integer, per_second double precision default 100) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  -- So that the last of them starts within a century. NaN counts as greater than everything.
  if per_second is null or not per_second between 0.001 and 1e6 then
    raise exception 'per_second must be from 0.001 to 1000000' using errcode = 'invalid_parameter_value';
  end if;
  return mail.revive(array(select mail.dlq_pick(filter, max)), per_second);
end
$$;
comment on function mail.dlq_retry(jsonb, integer, double precision) is
  'Sends the dead letters that match again, oldest first, at most so many, so many a second; returns how many. (Those the intake refused go through the door again at once.) Example: mail.dlq_retry(''{"template":"welcome"}'', 500)';

create function mail.discard(ids uuid[], by_whom text default session_user) returns integer
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  discarded integer;
begin
  with gone as (
    delete from mail.dead_letter d where d.message_id = any (ids) returning d.message_id
  ), message as (
    update mail.message m set status = 'canceled' from gone where m.id = gone.message_id and m.status = 'dead' returning m.id
  ), event as (
    insert into mail.event (message_id, type, detail)
    select id, 'discarded', json_build_object('by', by_whom) from message
  )
  select count(*) into discarded from gone;
  perform mail.remove_content(ids);
  return discarded;
end
$$;
comment on function mail.discard(uuid[], text) is 'What mail.dlq_discard does with the messages it picked, and retention with those that nobody retried.';

create function mail.dlq_discard(id uuid) returns boolean
language sql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
  select mail.discard(array[dlq_discard.id]) = 1
$$;
comment on function mail.dlq_discard(uuid) is 'Gives up one dead letter: it becomes canceled; false when it is not dead any more.';

create function mail.dlq_discard(filter jsonb, max integer) returns integer
language sql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
  select mail.discard(array(select mail.dlq_pick(filter, max)))
$$;
comment on function mail.dlq_discard(jsonb, integer) is 'Gives up the dead letters that match, at most so many; returns how many.';

create function mail.settle_unknown(id uuid, as_what text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  m mail.message;
begin
  if as_what is null or as_what not in ('sent', 'retry') then
    raise exception 'settle as sent or retry, not %', coalesce(as_what, 'null') using errcode = 'invalid_parameter_value';
  end if;
  update mail.message u
  set status = case as_what when 'sent' then 'sent' else 'accepted' end,
    sent_at = case as_what when 'sent' then u.claimed_at end,
    attempts = case as_what when 'sent' then u.attempts else 0 end,
    last_error = null
  where u.id = settle_unknown.id and u.status = 'unknown'
  returning * into m;
  if not found then
    return false;
  end if;
  insert into mail.event (message_id, type, detail)
  values (m.id, case as_what when 'sent' then 'sent' else 'retried' end, json_build_object('by', session_user));
  if as_what = 'retry' then
    delete from mail.message_prepared p where p.id = m.id;
    perform mail.enqueue_processing(array[m.id], 1);
  else
    perform mail.remove_content(array[m.id]);
  end if;
  return true;
end
$$;
comment on function mail.settle_unknown(uuid, text) is
  'A person''s verdict on a message whose outcome nobody knew: it was sent, or it is to be sent again. False when it is not unknown any more.';
