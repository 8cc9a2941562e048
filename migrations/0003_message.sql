-- The message and everything that hangs on it, partitioned by day through its time-ordered id, so that
-- old mail leaves by DROP. The hot row is narrow and has no index but its key: every change of status
-- stays on its page (HOT).

create table mail.message (
  id uuid not null,
  seq bigint not null,
  accepted_at timestamptz not null,
  queued_at timestamptz,
  claimed_at timestamptz,
  sent_at timestamptz,
  scheduled_at timestamptz,
  next_attempt_at timestamptz,
  template_version integer,
  worker integer,
  priority smallint not null
    constraint priority_is_0_to_9 check (priority between 0 and 9),
  is_partly_settled boolean not null default false,
  is_sensitive boolean not null default false,
  attempts smallint not null default 0
    constraint attempts_is_not_negative check (attempts >= 0),
  status text not null
    constraint status_is_known check (status in (
      'accepted', 'scheduled', 'queued', 'sending', 'deferred', 'unknown', 'sent',
      'delivered', 'bounced', 'complained', 'dead', 'suppressed', 'canceled'
    )),
  stream text not null,
  provider text,
  template text,
  provider_message_id text,
  last_error text,
  source text not null,
  primary key (id),
  constraint sending_names_its_worker check (status <> 'sending' or worker is not null)
) partition by range (id);
comment on table mail.message is 'One row a message: where it stands. Bodies and addresses are in mail.message_content.';
comment on column mail.message.seq is 'Order of acceptance, from mail.message_seq.';
comment on column mail.message.worker is 'mail.worker.number of the process that is sending it now.';
comment on column mail.message.attempts is 'Attempts begun; an attempt that never reached the provider is taken back.';
comment on column mail.message.is_partly_settled is
  'Some recipients have it or were refused for good; the events say which, and they are not tried again.';
comment on column mail.message.is_sensitive is
  'Its content is encrypted, removed once it is sent or given up, and never shown (see mail.forget_sensitive).';
comment on column mail.message.next_attempt_at is 'When a deferred message is tried again.';
comment on column mail.message.template is 'Name of the template it was rendered from; template_version is pinned when processed.';
comment on column mail.message.last_error is 'Code of the latest failure; the reply itself is in mail.event.';

create table mail.message_content (
  id uuid not null,
  message json not null,
  recipient_domain text,
  tags text[],
  removed_at timestamptz,
  sealed text,
  key_id text,
  primary key (id),
  constraint sealed_content_names_its_key check ((sealed is null) = (key_id is null))
) partition by range (id);
-- What is encrypted cannot be compressed.
alter table mail.message_content alter column sealed set storage external;
create index message_content_by_key on mail.message_content (key_id) where key_id is not null;
comment on table mail.message_content is
  'The message as it was accepted: envelope, headers, bodies or template data. Written once, and taken away by retention.';
comment on column mail.message_content.recipient_domain is
  'Of the first recipient; like tags as columns, since each message that is sent is counted by them.';
comment on column mail.message_content.tags is 'Each as name:value, as it is counted.';
comment on column mail.message_content.removed_at is 'Since then only the envelope is left in message.';
comment on column mail.message_content.sealed is
  'Of sensitive mail: subject, bodies, headers, template data and attachments, encrypted (s1.<part>.<key id>.<bytes>); the message has the rest. Null once it is removed.';
comment on column mail.message_content.key_id is 'The key of SLUICE_ENCRYPTION_KEYS that opens it.';

create table mail.message_prepared (
  id uuid not null,
  subject text,
  html text,
  text text,
  left_out text[],
  sender json,
  reply_to json,
  attachments json,
  list_unsubscribe text,
  sealed text,
  key_id text,
  primary key (id),
  constraint sealed_parts_name_their_key check ((sealed is null) = (key_id is null))
) partition by range (id);
alter table mail.message_prepared alter column sealed set storage external;
create index message_prepared_by_key on mail.message_prepared (key_id) where key_id is not null;
comment on table mail.message_prepared is
  'What processing made of a message: rendered parts, recipients left out, attachments fetched. No row when it goes out as it was accepted.';
comment on column mail.message_prepared.sealed is 'Of sensitive mail: subject, html and text, encrypted; those columns are null.';
comment on column mail.message_prepared.left_out is 'Suppressed addresses that were taken off the envelope.';
comment on column mail.message_prepared.sender is 'The template''s, when the message names none: {address, name}.';
comment on column mail.message_prepared.reply_to is 'The template''s, when the message names none: a list of {address, name}.';
comment on column mail.message_prepared.attachments is
  'All attachments in their order, once those given by URL were fetched; unset when there was nothing to fetch.';
comment on column mail.message_prepared.list_unsubscribe is
  'The header of that name (RFC 2369), when the stream adds it; one that begins with a link takes one click (RFC 8058).';

create sequence mail.event_seq cache 32;
create table mail.event (
  message_id uuid not null,
  id bigint not null default nextval('mail.event_seq'),
  at timestamptz not null default clock_timestamp(),
  type text not null,
  recipient text,
  detail json,
  xid xid8 not null default pg_current_xact_id()
) partition by range (message_id);
create index event_of_message on mail.event (message_id);
-- Rows of one transaction share an entry: 13 bytes a row, appended at the right end.
create index event_feed on mail.event (xid);
-- What became of mail to an address: for the rule on soft bounces.
create index event_of_recipient on mail.event (lower(recipient), at)
where type in ('delivered', 'bounced', 'recipient_refused');
comment on table mail.event is 'What happened to each message, append only: the timeline.';
comment on column mail.event.at is 'When it happened; of what a provider tells, when the provider says it did.';
comment on column mail.event.recipient is 'Set when the event is about one recipient.';
comment on column mail.event.xid is 'The transaction that wrote it: what mail.read_events goes by, so that a late commit is never missed.';
comment on column mail.event.detail is 'Attempt, provider, code, reply: what the type needs.';

create table mail.finder (
  term text not null,
  message_id uuid not null
) partition by range (message_id);
create index finder_by_term on mail.finder (term, message_id);
comment on table mail.finder is
  'What messages are found by, insert only: to:<address, lower case> of to, cc and bcc, tag:<name> and tag:<name>=<value>.';

create table mail.scheduled (
  message_id uuid primary key,
  due_at timestamptz not null,
  priority smallint not null
    constraint priority_is_0_to_9 check (priority between 0 and 9),
  stream text not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
-- Urgent first among those that are due; the next one due is the first entry of each priority.
create index scheduled_by_due on mail.scheduled (priority, due_at);
comment on table mail.scheduled is
  'Messages that go out later, each with its moment: those whose status is scheduled. Apart from mail.message, which has no index on what changes.';

create table mail.message_default partition of mail.message default;
create table mail.message_content_default partition of mail.message_content default;
create table mail.message_prepared_default partition of mail.message_prepared default;
create table mail.event_default partition of mail.event default;
create table mail.finder_default partition of mail.finder default;

create function mail.ensure_partitions(days_ahead integer default 7) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
-- ATTACH waits for whoever reads the default partition, and everybody else waits behind it.
set lock_timeout = '1s'
as $$
declare
  parent text;
  day date;
  partition text;
  key_column text;
  low uuid;
  high uuid;
  made integer := 0;
begin
  -- Whoever holds it makes them.
  perform from mail.latch l where l.name = 'ensure_partitions' for update skip locked;
  if not found then
    return 0;
  end if;
  foreach parent in array array['message', 'message_content', 'message_prepared', 'event', 'finder', 'provider_ref', 'feedback_seen'] loop
    -- Called by the first migrations already, before the later tables are there.
    continue when to_regclass('mail.' || parent) is null;
    key_column := case when parent in ('message', 'message_content', 'message_prepared') then 'id' else 'message_id' end;
    for day in
      select d::date
      from generate_series((now() at time zone 'utc')::date - 1, (now() at time zone 'utc')::date + days_ahead, interval '1 day') d
    loop
      partition := parent || to_char(day, '_YYYYMMDD');
      continue when to_regclass(format('mail.%I', partition)) is not null;
      low := uuid7_floor(day::timestamp at time zone 'utc');
      high := uuid7_floor((day + 1)::timestamp at time zone 'utc');
      begin
        -- LIKE and ATTACH, not PARTITION OF: it does not lock the parent against readers and writers.
        execute format('create table mail.%I (like mail.%I including all)', partition, parent);
        if parent = 'message' then
          execute format('alter table mail.%I set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)', partition);
        end if;
        -- Rows can be in the default partition only if nobody made partitions in time.
        execute format(
          'with late as (delete from mail.%I where %I >= %L and %I < %L returning *) insert into mail.%I select * from late',
          parent || '_default', key_column, low, key_column, high, partition
        );
        execute format(
          'alter table mail.%I attach partition mail.%I for values from (%L) to (%L)', parent, partition, low, high
        );
        made := made + 1;
      exception
        when lock_not_available then
          -- Next time; a second wait for the same reader would only hold the others up again.
          exit;
      end;
    end loop;
  end loop;
  return made;
end
$$;
comment on function mail.ensure_partitions(integer) is
  'Makes the daily partitions from yesterday to so many days ahead; returns how many it made. A table that is in use for a second is left for the next call. Safe to repeat.';

select mail.ensure_partitions();

create table mail.dead_letter (
  message_id uuid primary key,
  died_at timestamptz not null default clock_timestamp(),
  stage text not null
    constraint stage_is_known check (stage in ('intake', 'processing', 'dispatch')),
  code text not null,
  reason text not null,
  attempts smallint not null default 0,
  template_version integer,
  stream text not null,
  provider text,
  template text,
  source text not null,
  recipient_domain text
);
comment on table mail.dead_letter is 'Messages that failed for good, each once: where, why, and what it has in common with others.';
comment on column mail.dead_letter.reason is 'What a person needs to repair it: the provider''s reply, the template''s complaint, the field that is wrong.';

create table mail.template (
  id uuid primary key default gen_random_uuid(),
  name text not null
    constraint template_name_is_1_to_200_long check (length(name) between 1 and 200)
    constraint template_name_is_not_dots check (name not in ('.', '..'))
    constraint template_name_is_no_id check (name !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
  alias text
    constraint template_alias_is_a_word check (alias ~ '^[A-Za-z0-9_-]{1,100}$')
    constraint template_alias_is_no_id check (alias !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  removed_at timestamptz
);
create unique index template_name_is_unique on mail.template (name) where removed_at is null;
create unique index template_alias_is_unique on mail.template (alias) where removed_at is null;
comment on table mail.template is
  'What a message names as its template; the content is in mail.template_version. A removed one stays, so that what was sent can be read again.';
comment on column mail.template.alias is 'A second name. A message may give the id, the alias or the name.';

create function mail.template_uses(subject text, html text, plain text) returns text[]
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select coalesce(array_agg(distinct coalesce(found[1], found[2])), '{}')
  from regexp_matches(
    coalesce(subject, '') || E'\n' || coalesce(html, '') || E'\n' || coalesce(plain, ''),
    '\{%-?\s*(?:render|layout)\s+(?:''([^'']+)''|"([^"]+)")',
    'g'
  ) as found
$$;
comment on function mail.template_uses(text, text, text) is
  'Names of the templates that these sources render or take for their layout; also those inside a comment.';

create table mail.template_version (
  template_id uuid not null references mail.template (id),
  version integer not null
    constraint version_is_positive check (version > 0),
  id uuid not null unique default gen_random_uuid(),
  subject text,
  html text,
  text text,
  sender text,
  reply_to text[],
  variables jsonb not null default '[]'
    constraint template_variables_is_a_list check (jsonb_typeof(variables) = 'array'),
  is_strict boolean not null default false,
  uses text[] not null generated always as (mail.template_uses(subject, html, text)) stored,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  published_at timestamptz,
  primary key (template_id, version),
  constraint template_has_a_body check (html is not null or text is not null)
);
create unique index template_has_one_draft on mail.template_version (template_id) where published_at is null;
comment on table mail.template_version is
  'Liquid templates by version. A published version never changes: what was sent can be read again. At most one is not published: the draft.';
comment on column mail.template_version.sender is 'For messages without a from: address, or Name <address>.';
comment on column mail.template_version.reply_to is 'For messages without a reply_to.';
comment on column mail.template_version.variables is 'Declared variables: a list of {key, type: string or number, fallback_value}.';
comment on column mail.template_version.is_strict is 'A message that lacks a variable is a dead letter; otherwise what is missing renders as nothing.';
comment on column mail.template_version.uses is 'Names of the templates it renders or takes for its layout.';

create function mail.published_template_is_immutable() returns trigger
language plpgsql
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  named text;
begin
  select t.name into named from mail.template t where t.id = old.template_id;
  raise exception 'template % version % is published and cannot change', named, old.version
    using errcode = 'object_not_in_prerequisite_state',
      hint = 'Save the change as a new version and publish that.';
end
$$;
create trigger published_template_is_immutable
before update or delete on mail.template_version
for each row when (old.published_at is not null)
execute function mail.published_template_is_immutable();

create table mail.suppression (
  address text not null
    constraint address_is_lower_case check (address = lower(address))
    constraint address_is_plain_ascii check (address ~ '^[!-;=?A-~]+@[a-z0-9.-]+$'),
  scope text not null default '*',
  id uuid not null default mail.uuid7()
    constraint suppression_id_is_unique unique,
  origin text not null default 'manual'
    constraint origin_is_known check (origin in ('bounce', 'complaint', 'unsubscribe', 'manual', 'import')),
  reason text not null,
  source text not null default session_user,
  evidence jsonb,
  created_at timestamptz not null default now(),
  expires_at timestamptz,
  primary key (address, scope)
);
comment on table mail.suppression is 'Addresses that get no mail: in every stream (scope *) or in one.';
comment on column mail.suppression.expires_at is 'From then on it counts for nothing. Unset: never.';
comment on column mail.suppression.evidence is 'Of what the rules put here: the rule, and the message, code and words that met it.';
comment on column mail.suppression.address is 'As messages hold it, in lower case: local@domain, an internationalised domain in its xn-- form.';

create table mail.api_key (
  id text primary key,
  name text not null
    constraint key_name_is_1_to_200_long check (length(name) between 1 and 200),
  hash bytea not null
    constraint hash_is_sha256 check (length(hash) = 32),
  scope text not null default 'full'
    constraint scope_is_known check (scope in ('full', 'send', 'read', 'operate')),
  streams text[]
    constraint list_of_streams_is_not_empty check (cardinality(streams) > 0),
  sender_domains text[]
    constraint list_of_sender_domains_is_not_empty check (cardinality(sender_domains) > 0)
    constraint sender_domains_are_plain_and_lower_case
      check (array_to_string(sender_domains, ' ', '') ~ '^[a-z0-9.-]+( [a-z0-9.-]+)*$'),
  rate_limit_per_s double precision
    constraint rate_limit_is_a_thousandth_to_a_million_a_second check (rate_limit_per_s between 0.001 and 1000000),
  rate_burst integer
    constraint rate_burst_is_1_to_a_million check (rate_burst between 1 and 1000000),
  created_at timestamptz not null default now(),
  created_by text not null default session_user,
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz,
  previous_hash bytea
    constraint previous_hash_is_sha256 check (length(previous_hash) = 32),
  previous_expires_at timestamptz,
  constraint only_a_send_key_is_bound_to_streams_or_domains
    check (scope = 'send' or (streams is null and sender_domains is null)),
  constraint rate_burst_has_a_rate_limit check (rate_burst is null or rate_limit_per_s is not null),
  constraint previous_secret_has_an_end check ((previous_hash is null) = (previous_expires_at is null))
);
comment on table mail.api_key is 'Keys of the REST API; only the SHA-256 of the secret is kept.';
comment on column mail.api_key.streams is 'The only streams it may send in; unset: all.';
comment on column mail.api_key.sender_domains is
  'The only domains it may send from, each for itself and not for those below it; unset: all.';
comment on column mail.api_key.rate_limit_per_s is 'Requests a second over all processes; unset: no limit.';
comment on column mail.api_key.rate_burst is 'Requests at once after a pause; unset: as many as in a second, at least one.';
comment on column mail.api_key.created_by is 'The key it was made with, or the database user.';
comment on column mail.api_key.last_used_at is 'To the minute.';
comment on column mail.api_key.previous_hash is 'The secret before the last rotation, valid until previous_expires_at.';
