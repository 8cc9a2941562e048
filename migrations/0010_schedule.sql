-- Changing one's mind: until a worker claims a message for sending, it can be canceled or moved to another time.

create function mail.withdraw(m mail.message) returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  delete from mail.scheduled s where s.message_id = m.id;
  -- In the queue of whichever provider of its stream: after a failover that is not the one the message names. A job
  -- that a dispatcher has in hand is left to it, since it waits for our row and we must not wait for its job: it will
  -- find that the message may not be sent, and drop the job.
  with job as (
    select j.name, j.id
    from pgboss.job j
    where j.name = any (array(select format('dispatch.%s.%s', p.name, m.stream) from mail.provider p))
      and j.id = m.id and j.state < 'active'
    for update skip locked
  )
  delete from pgboss.job j using job where j.name = job.name and j.id = job.id and j.id = m.id
$$;
comment on function mail.withdraw(mail.message) is
  'Takes a message whose row the caller has locked off the schedule and off the dispatch queues. (A processing job passes over what is not accepted.)';

create function mail.cancel(id uuid) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  m mail.message;
begin
  -- Whoever changes it at this moment comes first; a dispatcher that comes second finds it canceled.
  select * into m from mail.message where message.id = cancel.id for update;
  if m.status in ('scheduled', 'accepted', 'queued', 'deferred') then
    perform mail.withdraw(m);
    update mail.message set status = 'canceled', next_attempt_at = null where message.id = m.id;
    insert into mail.event (message_id, type, detail)
    values (m.id, 'canceled', json_build_object('by', session_user, 'was', m.status));
    perform mail.remove_content(array[m.id]);
    return 'canceled';
  end if;
  return m.status;
end
$$;
comment on function mail.cancel(uuid) is
  'Cancels a message that no worker has claimed for sending yet; answers the state it is in now: canceled, or what came first (sending, sent, dead ...), or null when there is no such message. Safe to repeat. Example: mail.cancel(id)';

create function mail.reschedule(id uuid, at timestamptz) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  m mail.message;
  due timestamptz := greatest(at, now());
begin
  -- An hour more than the rule, as the clock of whoever reckoned 30 days may be ahead of ours.
  if at is null or at > now() + interval '30 days 1 hour' then
    raise exception 'a message can be scheduled at most 30 days ahead, not for %', coalesce(at::text, 'null')
      using errcode = 'invalid_parameter_value', hint = 'Give a moment such as now() + interval ''1 hour''.';
  end if;
  select * into m from mail.message where message.id = reschedule.id for update;
  if m.status in ('accepted', 'queued', 'deferred') or (m.status = 'scheduled' and m.scheduled_at <> due) then
    perform mail.withdraw(m);
    -- It is processed again when it is due: with the template and the suppressions of then.
    delete from mail.message_prepared p where p.id = m.id;
    update mail.message
    set status = 'scheduled', scheduled_at = due, queued_at = null, next_attempt_at = null, provider = null,
      template_version = null, last_error = null
    where message.id = m.id;
    insert into mail.scheduled (message_id, due_at, priority, stream) values (m.id, due, m.priority, m.stream);
    insert into mail.event (message_id, type, detail)
    values (m.id, 'scheduled', json_build_object('by', session_user, 'was', m.status, 'scheduled_at', due));
    return 'scheduled';
  end if;
  return m.status;
end
$$;
comment on function mail.reschedule(uuid, timestamptz) is
  'Moves a message that no worker has claimed for sending yet to another moment, at most 30 days ahead; one that has passed means at once. Answers the state it is in now: scheduled, or what came first, or null when there is no such message. Safe to repeat.';
