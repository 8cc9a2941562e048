-- A person's erasure: everything that names an address goes, but for a keyed hash that keeps it off the lists.

create function mail.hmac_pad(key bytea, filler integer) returns bytea
language plpgsql immutable strict
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  block bytea := case when length(key) > 64 then sha256(key) else key end;
begin
  block := block || decode(repeat('00', 64 - length(block)), 'hex');
  for i in 0..63 loop
    block := set_byte(block, i, get_byte(block, i) # filler);
  end loop;
  return block;
end
$$;
comment on function mail.hmac_pad(bytea, integer) is 'A key as one block of SHA-256, each byte combined with 54 (inner) or 92 (outer): RFC 2104.';

create function mail.hmac_sha256(content bytea, key bytea) returns bytea
language sql immutable strict
set search_path = pg_catalog, mail, pg_temp
as $$
  select sha256(mail.hmac_pad(key, 92) || sha256(mail.hmac_pad(key, 54) || content))
$$;
comment on function mail.hmac_sha256(bytea, bytea) is 'HMAC-SHA256 (RFC 2104), which Postgres has in an extension only.';

create table mail.suppression_hash (
  hash bytea not null
    constraint hash_is_sha256 check (length(hash) = 32),
  scope text not null,
  id uuid not null
    constraint suppression_hash_id_is_unique unique,
  origin text not null,
  created_at timestamptz not null,
  expires_at timestamptz,
  erased_at timestamptz not null default now(),
  primary key (hash, scope)
);
comment on table mail.suppression_hash is
  'Suppressions of addresses that were erased: who knows an address can find it here, nobody can read one. As mail.suppression otherwise.';
comment on column mail.suppression_hash.hash is 'HMAC-SHA256 of the address in lower case, by the key suppression in mail.secret.';

create function mail.address_hash(address text) returns bytea
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  -- Three random uuids hold 366 random bits.
  insert into mail.secret (name, value)
  values ('suppression', sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
  on conflict do nothing;
  return mail.hmac_sha256(convert_to(address, 'UTF8'), (select s.value from mail.secret s where s.name = 'suppression'));
end
$$;
comment on function mail.address_hash(text) is 'What is kept of a suppressed address that is erased. Makes the key at first use.';

create function mail.erased_suppressions(addresses text[])
returns table (address text, id uuid, scope text, origin text, created_at timestamptz, expires_at timestamptz)
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  -- No row, and so no hash of any address, as long as nobody was erased.
  with pad as materialized (
    select mail.hmac_pad(s.value, 54) as inner_block, mail.hmac_pad(s.value, 92) as outer_block
    from mail.secret s
    where s.name = 'suppression' and exists (select from mail.suppression_hash)
  )
  select given.address, h.id, h.scope, h.origin, h.created_at, h.expires_at
  from pad
  cross join unnest(addresses) as given (address)
  join mail.suppression_hash h
    on h.hash = sha256(pad.outer_block || sha256(pad.inner_block || convert_to(given.address, 'UTF8')))
$$;
comment on function mail.erased_suppressions(text[]) is 'The suppressions of those of the addresses, in lower case, that were erased.';

create function mail.suppressed_among(addresses text[], stream text) returns setof text
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select s.address
  from mail.suppression s
  where s.address = any (addresses) and s.scope in ('*', stream) and (s.expires_at is null or s.expires_at > now())
  union
  select e.address
  from mail.erased_suppressions(addresses) e
  where e.scope in ('*', stream) and (e.expires_at is null or e.expires_at > now())
$$;
comment on function mail.suppressed_among(text[], text) is 'Which of the addresses, in lower case, get no mail in this stream now: the one look-up before mail is sent.';

create function mail.unescaped(content text) returns text
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select case
    when strpos(content, '\u00') = 0 then content
    else (
      select string_agg(part[1] || coalesce(chr(('x' || part[2])::bit(8)::integer), ''), '' order by place)
      from regexp_matches(content, '(.*?)(?:\\u00([2-7][0-9a-fA-F])|$)', 'g') with ordinality as each (part, place)
    )
  end
$$;
comment on function mail.unescaped(text) is 'A text with the characters of ASCII that JSON has escaped: each encoder escapes others, some the @, some the +.';

create function mail.mentions(content text, address text) returns boolean
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select case
    when strpos(lower(content), split_part(address, '@', 1)) = 0 and strpos(content, '\u00') = 0 then false
    else
      -- The @ of a URL and of quoted-printable; a line break or a byte in front of it is no part of it.
      replace(replace(replace(
        regexp_replace(lower(mail.unescaped(content)), '\\(n|r|t|[0-3][0-7][0-7])', ' ', 'g'),
        '%40', '@'), '=40', '@'), E'\t', ' ')
        ~ ('(?<![a-z0-9._+-])' || regexp_replace(address, '([^a-z0-9@])', '\\\1', 'g') || '(?![a-z0-9-]|\.[a-z0-9])')
  end
$$;
comment on function mail.mentions(text, text) is
  'Whether a text names the address, in lower case, as such: joann@example.net does not name ann@example.net.';

create function mail.without_recipient(message json, address text) returns json
language plpgsql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  rest jsonb;
  list text;
begin
  if not mail.mentions(message::text, address) then
    return message;
  end if;
  rest := message::jsonb;
  foreach list in array array['to', 'cc', 'bcc', 'reply_to', 'replyTo'] loop
    if jsonb_typeof(rest -> list) = 'array' then
      rest := jsonb_set(rest, array[list], coalesce(
        (
          select jsonb_agg(mailbox order by place)
          from jsonb_array_elements(rest -> list) with ordinality as each (mailbox, place)
          where not mail.mentions(coalesce(mailbox ->> 'address', mailbox #>> '{}'), address)
        ),
        '[]'
      ));
    elsif mail.mentions(rest ->> list, address) then
      rest := rest - list;
    end if;
  end loop;
  if rest = message::jsonb then
    return message;
  end if;
  return case when coalesce(rest -> 'to', '[]') <> '[]' then rest end;
exception
  -- What Postgres cannot take apart, the mover refuses.
  when data_exception then
    return null;
end
$$;
comment on function mail.without_recipient(json, text) is
  'A message, as it was given or as it is stored, for all others it is to; null when nobody is left in to.';

create function mail.erase_at_the_doors(address text) returns table (what text, rows bigint, is_left boolean)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  door text;
  waiting record;
  rest json;
begin
  is_left := false;
  foreach door in array array['intake', 'outbox'] loop
    what := door;
    rows := 0;
    -- A row that a mover has in hand is waited for; it is a message then, and found as such.
    for waiting in execute format('select ctid as place, message from mail.%I where mail.mentions(message::text, $1) for update', door)
      using address
    loop
      rest := mail.without_recipient(waiting.message, address);
      continue when rest::text = waiting.message::text;
      if rest is null then
        execute format('delete from mail.%I where ctid = $1', door) using waiting.place;
      else
        execute format('update mail.%I set message = $2 where ctid = $1', door) using waiting.place, rest;
      end if;
      rows := rows + 1;
    end loop;
    return next;
  end loop;
end
$$;
comment on function mail.erase_at_the_doors(text) is 'What mail.erase does with mail that no mover has taken yet.';

create function mail.lock_for_erasure(wanted uuid[]) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  locked uuid[];
  there bigint;
begin
  -- Never waits for one of them while it holds others: whoever settles or claims many locks them in an order of its own.
  for attempt in 1..40 loop
    begin
      select count(*) into there from mail.message m where m.id = any (wanted);
      locked := array(select m.id from mail.message m where m.id = any (wanted) order by m.id for update skip locked);
      if cardinality(locked) >= there then
        return locked;
      end if;
      raise exception using errcode = 'lock_not_available';
    exception
      when lock_not_available then
        perform pg_sleep(0.05);
    end;
  end loop;
  return array(select m.id from mail.message m where m.id = any (wanted) order by m.id for update skip locked);
end
$$;
comment on function mail.lock_for_erasure(uuid[]) is 'Locks messages; after two seconds those that nobody else holds. Returns which.';

create function mail.erase_attachments(hashes text[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  erased bigint;
  free bytea[];
begin
  -- Whoever is about to note a use holds one of these, and keeps it.
  free := array(
    select a.sha256 from mail.attachment a
    where a.sha256 = any (array(select decode(h, 'hex') from unnest(hashes) h))
    order by a.sha256
    for update skip locked
  );
  delete from mail.attachment_use u
  where u.sha256 = any (free)
    and not exists (
      select
      from mail.message m
      join mail.message_content c on c.id = m.id
      left join mail.message_prepared p on p.id = m.id
      where m.id >= mail.uuid7_floor(u.day::timestamp at time zone 'utc')
        and m.id < mail.uuid7_floor((u.day + 1)::timestamp at time zone 'utc')
        and m.stream = u.stream
        and strpos(concat(c.message, p.attachments), encode(u.sha256, 'hex')) > 0
    );
  delete from mail.attachment a
  where a.sha256 = any (free)
    and not exists (select from mail.attachment_use u where u.sha256 = a.sha256)
    and not exists (select from mail.intake i where strpos(i.message::text, encode(a.sha256, 'hex')) > 0)
    and not exists (select from mail.outbox o where strpos(o.message::text, encode(a.sha256, 'hex')) > 0);
  get diagnostics erased = row_count;
  -- What was handed in and is stored by now, or never will be.
  delete from mail.attachment_given g
  where g.sha256 = any (array(select decode(h, 'hex') from unnest(hashes) h))
    and not exists (select from mail.attachment a where a.sha256 = g.sha256)
    and not exists (select from mail.intake i where strpos(i.message::text, encode(g.sha256, 'hex')) > 0)
    and not exists (select from mail.outbox o where strpos(o.message::text, encode(g.sha256, 'hex')) > 0);
  return erased;
end
$$;
comment on function mail.erase_attachments(text[]) is 'Removes those of the attachments that no message carries any more.';

create function mail.erase_tags(terms text[]) returns bigint
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  own text[];
  erased bigint;
begin
  -- As statistics write it, of what no other message carries: a campaign stays, an order number goes.
  own := array(
    select left(regexp_replace(t, '^tag:([^=]*)=(.*)$', '\1:\2'), 200)
    from unnest(terms) t
    where strpos(t, '=') > 0 and not exists (select from mail.finder f where f.term = t)
  );
  delete from mail.stat_time s where s.tag = any (own);
  delete from mail.stat_value v where v.kind = 'tag' and v.value = any (own);
  delete from mail.stat s where s.tag = any (own);
  get diagnostics erased = row_count;
  return erased;
end
$$;
comment on function mail.erase_tags(text[]) is 'Removes from the statistics those of the tags that only erased messages had.';

create function mail.erase_from_shared(ids uuid[], address text) returns void
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  settled uuid[] := array(select m.id from mail.message m where m.id = any (ids) and mail.is_settled(m.status));
begin
  -- What was sent to several: the others' envelope stays. What still waits goes to the others, whole.
  with prepared as (
    delete from mail.message_prepared p where p.id = any (settled) returning p.id, p.sender, p.reply_to
  )
  update mail.message_content c
  set removed_at = coalesce(c.removed_at, clock_timestamp()),
    tags = null,
    (message, recipient_domain) = (
      select (kept::jsonb - array['reply_to', 'tags', 'metadata'])::json, split_part(kept -> 'to' -> 0 ->> 'address', '@', 2)
      from mail.without_recipient(mail.envelope_of(c.message, p.sender, p.reply_to), address) kept
    )
  from unnest(settled) s (id)
  left join prepared p on p.id = s.id
  where c.id = s.id and c.id = any (settled);
  update mail.message_content c
  set (message, recipient_domain) = (
    select kept, split_part(kept -> 'to' -> 0 ->> 'address', '@', 2) from mail.without_recipient(c.message, address) kept
  )
  where c.id = any (ids) and c.id <> all (settled);
  update mail.message_prepared p
  set left_out = array_remove(p.left_out, address)
  where p.id = any (ids) and address = any (p.left_out);

  delete from mail.finder f
  where f.message_id = any (ids) and f.message_id >= ids[1] and f.message_id <= ids[cardinality(ids)]
    and (f.term = 'to:' || address or (f.term like 'tag:%' and f.message_id = any (settled)));
  delete from mail.event e where e.message_id = any (ids) and lower(e.recipient) = address;
  update mail.event e
  set detail = (e.detail::jsonb - array['reply', 'reason', 'url', 'user_agent', 'ip'])::json
  where e.message_id = any (ids) and mail.mentions(e.detail::text, address);
end
$$;
comment on function mail.erase_from_shared(uuid[], text) is 'What mail.erase does with messages that others got too.';

create function mail.messages_to(address text) returns uuid[]
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select array(
    select f.message_id from mail.finder f where f.term = 'to:' || address
    union
    -- What the intake refused is found by nothing but its text.
    select d.message_id
    from mail.dead_letter d
    join mail.message_content c on c.id = d.message_id
    where d.stage = 'intake' and mail.mentions(c.message::text, address)
  )
$$;
comment on function mail.messages_to(text) is 'The messages to an address, in lower case: to, cc and bcc.';

create function mail.shared_among(ids uuid[], address text) returns uuid[]
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select array(
    select c.id
    from mail.message_content c
    where c.id = any (ids)
      and case
        when exists (select from mail.event e where e.message_id = c.id and e.type in ('accepted', 'scheduled'))
        then mail.without_recipient(c.message, address) is not null
        else false
      end
    order by c.id
  )
$$;
comment on function mail.shared_among(uuid[], text) is
  'Those of the messages that somebody else is a first recipient of. Without its content nobody knows, and it counts as the one''s alone.';

create function mail.erase_jobs(ids uuid[]) returns void
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  -- After the messages, and none that somebody has in hand, who waits for the message: as mail.withdraw.
  with job as (
    select j.name, j.id
    from pgboss.job j
    where (j.name = any (array(select q.name from pgboss.queue q where q.name like 'dispatch.%')) and j.id = any (ids))
      or (
        j.name = any (array(select q.name from pgboss.queue q where q.name like 'process.%')) and j.state < 'active'
        and jsonb_array_length(j.data -> 'ids') = 1 and (j.data -> 'ids' ->> 0)::uuid = any (ids)
      )
    for update skip locked
  )
  delete from pgboss.job j using job where j.name = job.name and j.id = job.id
$$;
comment on function mail.erase_jobs(uuid[]) is 'Removes the jobs of erased messages; of processing those that are theirs alone, as the others pass over them.';

create function mail.erase_messages(alone uuid[], shared uuid[], address text)
returns table (what text, rows bigint, is_left boolean)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  files text[];
  tags text[];
  counts jsonb := '{}';
  day date;
begin
  files := array(
    select distinct mail.attachments_in(concat(c.message, p.attachments))
    from mail.message_content c
    left join mail.message_prepared p on p.id = c.id and p.id = any (alone || shared)
    where c.id = any (alone || shared)
  );
  tags := array(
    select distinct f.term
    from unnest(alone || shared) given (id)
    join mail.finder f on f.message_id = given.id
    where f.term like 'tag:%'
      and f.message_id >= (select id from unnest(alone || shared) id order by id limit 1)
      and f.message_id <= (select id from unnest(alone || shared) id order by id desc limit 1)
  );
  perform mail.erase_jobs(alone);
  for day in select distinct mail.uuid7_day(id) from unnest(alone) id loop
    select counts || jsonb_object_agg(d.relation, coalesce((counts ->> d.relation)::bigint, 0) + d.rows) into counts
    from mail.delete_messages(
      array(select id from unnest(alone) id where mail.uuid7_day(id) = day),
      mail.uuid7_floor(day::timestamp at time zone 'utc'), mail.uuid7_floor((day + 1)::timestamp at time zone 'utc')
    ) d;
  end loop;
  perform mail.erase_from_shared(shared, address);
  counts := counts || jsonb_build_object(
    'message: to others as well', cardinality(shared),
    'attachment', mail.erase_attachments(files),
    'stat', mail.erase_tags(tags)
  );
  return query select c.key, c.value::bigint, false from jsonb_each_text(counts) c;
end
$$;
comment on function mail.erase_messages(uuid[], uuid[], text) is
  'What mail.erase does with messages, which it has locked, and all that hangs on them: those to one person alone, and those to others as well.';

create function mail.erase_mentions(address text, alone uuid[], shared uuid[]) returns table (what text, rows bigint, is_left boolean)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  is_left := false;
  what := 'event';
  -- By their index; those of other types were found with their messages.
  delete from mail.event e where lower(e.recipient) = address and e.type in ('delivered', 'bounced', 'recipient_refused');
  get diagnostics rows = row_count;
  return next;

  what := 'dead_letter';
  update mail.dead_letter d set reason = '(erased)' where mail.mentions(d.reason, address);
  get diagnostics rows = row_count;
  return next;

  what := 'provider_event';
  update mail.provider_event p set reason = '(erased)' where mail.mentions(p.reason, address);
  get diagnostics rows = row_count;
  return next;

  what := 'alert';
  update mail.alert a set what = '(erased)' where mail.mentions(a.what, address);
  get diagnostics rows = row_count;
  return next;

  what := 'alert_delivery';
  update mail.alert_delivery d
  set alerts = (
    select jsonb_agg(case when mail.mentions(each.alert::text, address) then each.alert || '{"what": "(erased)"}' else each.alert end order by each.place)
    from jsonb_array_elements(d.alerts) with ordinality as each (alert, place)
  )
  where mail.mentions(d.alerts::text, address);
  get diagnostics rows = row_count;
  return next;

  what := 'webhook_delivery';
  with gone as (
    delete from mail.webhook_delivery d
    where d.message_id = any (alone)
      or (d.message_id = any (shared) and lower(d.payload -> 'data' ->> 'recipient') = address)
      or (d.message_id <> all (shared) and mail.mentions(d.payload::text, address))
    returning d.id, d.endpoint_id
  ), job as (
    select j.name, j.id
    from gone
    join pgboss.job j on j.name = 'webhook.' || gone.endpoint_id and j.id = substr(gone.id, 5)::uuid and j.state < 'active'
    for update of j skip locked
  ), withdrawn as (
    delete from pgboss.job j using job where j.name = job.name and j.id = job.id
  )
  select count(*) into rows from gone;
  return next;

  what := 'webhook_delivery: about others as well';
  with changed as (
    update mail.webhook_delivery d
    set payload = jsonb_set(
      d.payload::jsonb, '{data}',
      (d.payload::jsonb -> 'data') || jsonb_build_object(
        'subject', null, 'tags', '{}'::jsonb, 'metadata', '{}'::jsonb,
        'to', (
          select coalesce(jsonb_agg(mailbox), '[]')
          from jsonb_array_elements_text(d.payload::jsonb -> 'data' -> 'to') mailbox
          where not mail.mentions(mailbox, address)
        )
      )
    )::json
    where d.message_id = any (shared)
    returning d.id
  ), answered as (
    update mail.webhook_attempt a set response = null from changed where a.delivery_id = changed.id
  )
  select count(*) into rows from changed;
  return next;

  what := 'feedback';
  -- The key stays, which keeps the same delivery from coming again.
  update mail.feedback f
  set body = '', state = 'applied', reason = 'erased', applied_at = coalesce(f.applied_at, clock_timestamp())
  where f.state <> 'waiting' and mail.mentions(encode(f.body, 'escape'), address);
  get diagnostics rows = row_count;
  return next;

  what := 'feedback_unmatched';
  delete from mail.feedback_unmatched u where mail.mentions(u.event::text, address);
  get diagnostics rows = row_count;
  return next;

  what := 'inbox';
  delete from mail.inbox i
  where address = any (array(select lower(r) from unnest(i.recipients) r))
    or lower(i.mail_from) = address or mail.mentions(encode(i.raw, 'escape'), address);
  get diagnostics rows = row_count;
  return next;

  what := 'idempotency';
  -- In a key anything may stand before it: welcome-ann@example.net.
  delete from mail.idempotency i
  where strpos(lower(i.key), address) > 0 or mail.mentions(i.answer::text, address)
    or i.message_ids <@ alone;
  get diagnostics rows = row_count;
  return next;

  what := 'feedback: still to be applied';
  is_left := true;
  select count(*) into rows from mail.feedback f where f.state = 'waiting' and mail.mentions(encode(f.body, 'escape'), address);
  return next;
end
$$;
comment on function mail.erase_mentions(text, uuid[], uuid[]) is 'What mail.erase does with all that names an address, or one of the messages, elsewhere.';

create function mail.erase_suppressions(address text) returns table (what text, rows bigint, is_left boolean)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  is_left := false;
  what := 'suppression: kept as a hash';
  with gone as (
    delete from mail.suppression s where s.address = erase_suppressions.address returning s.*
  )
  insert into mail.suppression_hash as h (hash, scope, id, origin, created_at, expires_at)
  select mail.address_hash(gone.address), gone.scope, gone.id, gone.origin, gone.created_at, gone.expires_at from gone
  on conflict on constraint suppression_hash_pkey do update
  set expires_at = case when h.expires_at is null or excluded.expires_at is null then null else greatest(h.expires_at, excluded.expires_at) end;
  get diagnostics rows = row_count;
  return next;

  what := 'suppression: evidence of others';
  update mail.suppression s set evidence = s.evidence - 'reason' where mail.mentions(s.evidence::text, erase_suppressions.address);
  get diagnostics rows = row_count;
  return next;
end
$$;
comment on function mail.erase_suppressions(text) is 'What mail.erase does with the suppression list.';

create function mail.erase(address text) returns table (what text, rows bigint, is_left boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  plain text := mail.plain_address(erase.address);
  wanted uuid[];
  locked uuid[];
  shared uuid[];
  alone uuid[];
begin
  perform from mail.latch l where l.name = 'erase' for update;
  -- Nobody reads events now, to tell or to count what is about to go; endpoints before their deliveries, as everywhere.
  perform from mail.consumer c order by c.name for update;
  perform from mail.webhook_endpoint e order by e.id for no key update;
  return query select e.* from mail.erase_at_the_doors(plain) e where e.rows > 0;

  wanted := mail.messages_to(plain);
  locked := mail.lock_for_erasure(wanted);
  shared := mail.shared_among(locked, plain);
  alone := array(select id from unnest(locked) id where id <> all (shared) order by id);
  -- Looked at before they change: what is being sent to others as well may yet be written about.
  return query
    select 'message: in use, or being sent', count(*), true
    from mail.message m
    where m.id = any (wanted) and (m.id <> all (locked) or (m.id = any (shared) and m.status = 'sending'))
    having count(*) > 0;
  return query select e.* from mail.erase_messages(alone, shared, plain) e where e.rows > 0;
  return query select e.* from mail.erase_mentions(plain, alone, shared) e where e.rows > 0;
  return query select e.* from mail.erase_suppressions(plain) e where e.rows > 0;
end
$$;
comment on function mail.erase(text) is
  'Removes a person: all mail to an address, and every row that names it; a suppression stays as a keyed hash. Says what, and how many rows; is_left: was in use, so erase again in a moment. Safe to repeat.';
