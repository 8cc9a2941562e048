-- Sensitive mail: its content leaves with its last send, and what others say of it is kept without their words.

create function mail.forget_sensitive() returns trigger
language plpgsql
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  update mail.message_content c set sealed = null, key_id = null, removed_at = clock_timestamp() where c.id = new.id and c.sealed is not null;
  update mail.message_prepared p set sealed = null, key_id = null where p.id = new.id and p.sealed is not null;
  return null;
end
$$;
comment on function mail.forget_sensitive() is
  'Removes the encrypted content of a message in the transaction in which it is sent or given up; addresses, tags and metadata stay.';

-- A trigger: a message ends in many places (a send, a verdict, a cancel, a suppression), and none may forget it.
create trigger sensitive_content_leaves
after update of status on mail.message
for each row
when (new.is_sensitive and new.status <> old.status and new.status in ('sent', 'delivered', 'bounced', 'complained', 'suppressed', 'canceled'))
execute function mail.forget_sensitive();

create function mail.without_words(detail json) returns json
language sql immutable strict
set search_path = pg_catalog, mail, pg_temp
as $$
  -- Codes and kinds, of which no text can be made.
  select coalesce(json_object_agg(said.key, said.value), '{}')
  from json_each(detail) as said (key, value)
  where said.key in ('provider', 'attempt', 'kind', 'stage', 'by', 'at')
    or (said.key in ('code', 'enhanced_code', 'smtp_code', 'http_status', 'provider_code') and said.value #>> '{}' ~ '^[A-Za-z0-9._-]{1,60}$')
$$;
comment on function mail.without_words(json) is
  'The detail of an event of sensitive mail: codes, and none of the texts or links that others wrote.';

create view mail.encryption_key_use as
select
  key_id,
  count(distinct id) as messages,
  min(m.accepted_at) as oldest_accepted_at
from (
  select key_id, id from mail.message_content where key_id is not null
  union all
  select key_id, id from mail.message_prepared where key_id is not null
) sealed
left join mail.message m using (id)
group by key_id;
comment on view mail.encryption_key_use is
  'Which keys of SLUICE_ENCRYPTION_KEYS are still needed: how many waiting and dead messages each of them opens. (Rows of mail.intake and mail.outbox come on top for the moment that they wait.)';
