-- Who may do what. Grants are a function, not statements: roles belong to the whole server, may be made
-- later by an administrator, and every migration run applies this again.

create function mail.ensure_queue(name text, options jsonb) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  if name !~ '^(process|dispatch|webhook)(\.[a-z0-9_-]{1,64}){1,2}$' and name <> 'feedback' then
    raise exception 'not a queue of Sluice: %', name using errcode = 'invalid_parameter_value';
  end if;
  perform pgboss.create_queue(name, options);
end
$$;
comment on function mail.ensure_queue(text, jsonb) is
  'Makes a queue with its own table, which takes rights on the schema that the service does not have. Safe to repeat.';

create function mail.queue_missing(name text) returns integer
language plpgsql immutable strict
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  raise exception 'the queue % is not there yet', name
    using errcode = 'object_not_in_prerequisite_state', hint = 'A running service makes it within seconds.';
end
$$;
comment on function mail.queue_missing(text) is
  'Ends a statement that would put jobs on a queue that is not there. Of null, as nothing is missing, it is null.';

create function mail.apply_grants() returns text[]
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  role text;
  missing text[] := '{}';
begin
  revoke all on schema mail from public;
  revoke all on all functions in schema mail from public;
  revoke all on all functions in schema pgboss from public;
  -- Of functions that are made later, too. Not of a user who owns other things in this database as well.
  if current_user = 'mail_owner' then
    alter default privileges revoke execute on functions from public;
  end if;

  foreach role in array array['mail_service', 'mail_enqueue', 'mail_operator', 'mail_reader'] loop
    if to_regrole(role) is null then
      missing := missing || role;
      continue;
    end if;
    execute format('grant usage on schema mail to %I', role);
  end loop;

  if to_regrole('mail_service') is not null then
    grant select, insert, update, delete on all tables in schema mail to mail_service;
    revoke insert, update, delete on mail.migration from mail_service;
    grant usage, select on all sequences in schema mail to mail_service;
    grant execute on all functions in schema mail to mail_service;
    revoke execute on function mail.apply_grants(), mail.adopt_events() from mail_service;
    alter default privileges in schema mail grant select, insert, update, delete on tables to mail_service;
    grant usage on schema pgboss to mail_service;
    grant select, insert, update, delete on all tables in schema pgboss to mail_service;
    grant execute on all functions in schema pgboss to mail_service;
    alter default privileges in schema pgboss grant select, insert, update, delete on tables to mail_service;
  end if;

  if to_regrole('mail_enqueue') is not null then
    grant insert (message, stream, priority, idempotency_key, source) on mail.intake, mail.outbox to mail_enqueue;
    grant usage on sequence mail.message_seq to mail_enqueue;
    grant execute on function mail.uuid7(), mail.send(jsonb, text, text, smallint), mail.attach(bytea) to mail_enqueue;
  end if;

  if to_regrole('mail_reader') is not null then
    grant select on mail.queue, mail.dlq, mail.dlq_summary, mail.provider_status, mail.stream, mail.provider, mail.bucket,
      mail.provider_event, mail.worker, mail.intake_loss, mail.stats, mail.stat, mail.stat_time to mail_reader;
    grant select on mail.webhook_source, mail.webhook_status, mail.feedback_parked to mail_reader;
    grant select on mail.webhook_endpoint_status to mail_reader;
    -- The views ask these with the reader's own rights.
    grant select on mail.held, mail.sending_hold to mail_reader;
    grant execute on function mail.why_held() to mail_reader;
    grant execute on function mail.provider_hold(text, boolean), mail.most_common(jsonb), mail.without_addresses(text),
      mail.time_at(double precision, smallint[], numeric[]), mail.time_bounds() to mail_reader;
    grant select on mail.intake_limit, mail.intake_pressure to mail_reader;
    grant select on mail.send_window, mail.domain_limit to mail_reader;
    grant execute on function mail.window_opens(text, timestamptz), mail.window_opened(text, timestamptz) to mail_reader;
    grant select on mail.encryption_key_use to mail_reader;
    grant execute on function mail.measure_intake() to mail_reader;
    grant select on mail.depth, mail.sample, mail.growth, mail.flow, mail.tally, mail.tally_time, mail.leader to mail_reader;
    grant select on mail.scale_setting to mail_reader;
    grant execute on function mail.scale(), mail.scale_streams() to mail_reader;
    grant select on mail.alert, mail.alert_rule, mail.alert_measure, mail.alert_silence, mail.alerts_now, mail.old_transaction,
      mail.partition_gap to mail_reader;
    grant execute on function mail.in_words(double precision), mail.rests(text, text) to mail_reader;
  end if;

  if to_regrole('mail_operator') is not null then
    grant select on mail.queue, mail.dlq, mail.dlq_summary, mail.provider_status, mail.stream, mail.provider, mail.bucket,
      mail.bucket_level, mail.provider_event, mail.provider_state, mail.worker, mail.intake_loss,
      mail.message, mail.event, mail.consumer, mail.suppression, mail.waiting_job, mail.dead_letter, mail.scheduled,
      mail.stats, mail.stat, mail.stat_time to mail_operator;
    grant select on mail.feedback_unmatched to mail_operator;
    grant select on mail.encryption_key_use to mail_operator;
    grant select, update (hard_codes, soft_bounces, soft_within, soft_for) on mail.suppression_rule to mail_operator;
    grant select on mail.webhook_source, mail.webhook_status, mail.webhook_refusal, mail.feedback_parked to mail_operator;
    grant execute on function mail.feedback_retry(text, integer) to mail_operator;
    -- What webhooks tell holds subjects, which are not an operator's to read.
    grant select on mail.webhook_endpoint, mail.webhook_endpoint_status, mail.webhook_attempt to mail_operator;
    grant select (id, endpoint_id, message_id, event_id, type, state, attempts, tries, created_at, next_attempt_at,
      last_attempt_at, last_status, last_error) on mail.webhook_delivery to mail_operator;
    grant execute on function mail.webhook_enable(uuid), mail.webhook_disable(uuid, text), mail.webhook_replay(text),
      mail.webhook_replay(uuid, timestamptz), mail.webhook_id_floor(timestamptz) to mail_operator;
    -- The pace of a provider is an operator's to change; where mail goes is not.
    grant insert (provider, name, quota, window_s, utilization, burst, reserve, counts),
      update (quota, window_s, utilization, burst, reserve, counts), delete on mail.bucket to mail_operator;
    -- When mail goes out is theirs as well.
    grant select, delete, insert (stream, days, opens, closes, time_zone), update (days, opens, closes, time_zone)
      on mail.send_window to mail_operator;
    grant select, delete, insert (domain, provider, quota, window_s, utilization, burst),
      update (domain, provider, quota, window_s, utilization, burst) on mail.domain_limit to mail_operator;
    grant select on mail.domain_pace to mail_operator;
    grant execute on function mail.window_opens(text, timestamptz), mail.window_opened(text, timestamptz) to mail_operator;
    grant select on mail.intake_pressure to mail_operator;
    grant select, update on mail.retention to mail_operator;
    grant select on mail.depth, mail.sample, mail.growth, mail.flow, mail.tally, mail.tally_time, mail.leader to mail_operator;
    grant select, update (min_workers, max_workers, rate_per_worker) on mail.scale_setting to mail_operator;
    grant execute on function mail.scale(), mail.scale_streams() to mail_operator;
    grant select, update on mail.intake_limit to mail_operator;
    grant select on mail.held, mail.sending_hold, mail.lifeline to mail_operator;
    grant select, update on mail.hold_setting to mail_operator;
    grant execute on function mail.hold(text), mail.release(text), mail.why_held() to mail_operator;
    grant select on mail.alert, mail.alert_measure, mail.alert_silence, mail.alerts_now, mail.alert_delivery, mail.alert_notice,
      mail.old_transaction, mail.partition_gap, mail.worker_death to mail_operator;
    grant select, insert, update, delete on mail.alert_rule to mail_operator;
    -- Where alerts go is not an operator's to change, and the URL may hold a token.
    grant select (id, name, kind, url_env, secret_env, address, sender, min_severity, enabled, created_at),
      update (min_severity, enabled) on mail.alert_target to mail_operator;
    grant execute on function mail.acknowledge(uuid), mail.silence(text, text, timestamptz), mail.unsilence(text, text),
      mail.in_words(double precision), mail.rests(text, text), mail.uuid7_floor(timestamptz) to mail_operator;
    grant execute on function mail.measure_intake() to mail_operator;
    grant execute on function mail.why(uuid), mail.suppress(text, text, text, text, jsonb, timestamptz), mail.unsuppress(text, text),
      mail.suppress_many(text[], text, text, timestamptz),
      mail.pause(text, text), mail.resume(text, text), mail.settle_unknown(uuid, text),
      mail.dlq_retry(uuid), mail.dlq_retry(jsonb, integer, double precision),
      mail.dlq_discard(uuid), mail.dlq_discard(jsonb, integer),
      mail.cancel(uuid), mail.reschedule(uuid, timestamptz),
      mail.retention_plan(), mail.retain(integer), mail.erase(text),
      mail.provider_hold(text, boolean), mail.most_common(jsonb), mail.without_addresses(text),
      mail.read_events(text, integer), mail.latest_event(),
      mail.time_at(double precision, smallint[], numeric[]), mail.time_bounds() to mail_operator;
  end if;

  return missing;
end
$$;
comment on function mail.apply_grants() is
  'Grants each role of Sluice that exists what it may do; returns the roles that are missing. Run by every migration.';
