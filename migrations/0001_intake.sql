-- Where mail comes in: streams and providers it is sorted by, the two doors, and the idempotency keys.

create table mail.latch (
  name text primary key
);
comment on table mail.latch is
  'A row for each work that only one may do at a time, who locks it. Rows and not advisory locks: those may be taken, and held for ever, by whoever can connect.';

insert into mail.latch (name) values
  ('ensure_partitions'), ('erase'), ('evaluate_alerts'), ('lead'), ('lifeline'), ('retain'), ('suppress_after'), ('template'), ('watch_intake');

-- Logged on purpose: the identity of an unlogged table restarts at 1 after a crash of Postgres and
-- would collide with rows already moved.
create sequence mail.message_seq;
comment on sequence mail.message_seq is 'Order of acceptance over both doors; survives a crash of Postgres.';

create function mail.uuid7() returns uuid
language sql volatile parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  -- RFC 9562 §5.7: 48 bits of milliseconds, version 7, the rest random. Postgres 18 has uuidv7();
  -- one definition for 15 and newer keeps ids alike everywhere.
  select encode(
    set_bit(
      set_bit(
        overlay(
          uuid_send(gen_random_uuid())
          placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
          from 1 for 6
        ),
        52, 1
      ),
      53, 1
    ),
    'hex'
  )::uuid
$$;
comment on function mail.uuid7() is 'A time-ordered UUID, version 7.';

create function mail.uuid7_floor(at timestamptz) returns uuid
language sql immutable strict parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  select (lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
comment on function mail.uuid7_floor(timestamptz) is
  'The smallest id a message of that moment can have: bounds for partitions and for ranges of time.';

create table mail.stream (
  name text primary key
    constraint stream_name_is_short_and_plain check (name ~ '^[a-z0-9_-]{1,64}$'),
  priority smallint not null default 5
    constraint priority_is_0_to_9 check (priority between 0 and 9),
  route text[] not null default '{default}'
    constraint route_names_a_provider check (cardinality(route) > 0),
  on_unknown text not null default 'retry'
    constraint on_unknown_is_retry_or_hold check (on_unknown in ('retry', 'hold')),
  attempts smallint not null default 3
    constraint attempts_is_positive check (attempts > 0),
  backoff_base_s integer not null default 30
    constraint backoff_base_is_positive check (backoff_base_s > 0),
  backoff_factor real not null default 4
    constraint backoff_factor_is_at_least_1 check (backoff_factor >= 1 and backoff_factor < 'infinity'),
  backoff_cap_s integer not null default 3600
    constraint backoff_cap_is_at_least_base check (backoff_cap_s >= backoff_base_s),
  slots smallint not null default 20
    constraint slots_is_positive check (slots > 0),
  bounce_domain text
    constraint bounce_domain_is_a_domain_in_lower_case
    check (length(bounce_domain) <= 180 and bounce_domain ~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  unsubscribe boolean not null default false,
  unsubscribe_mailto text
    constraint unsubscribe_mailto_is_an_address check (unsubscribe_mailto ~ '^[!-;=?A-~]{1,64}@[A-Za-z0-9.-]{1,180}$'),
  requires_unsubscribe boolean not null default false,
  postal_address text
    constraint postal_address_has_words_and_at_most_500_characters check (postal_address ~ '[[:alnum:]]' and length(postal_address) <= 500),
  requires_postal_address boolean not null default false,
  is_sensitive boolean not null default false,
  created_at timestamptz not null default now(),
  constraint a_required_postal_address_is_given check (postal_address is not null or not requires_postal_address)
);
comment on table mail.stream is 'Kinds of mail that must not hold each other up: each has its own queues, slots and retry rules.';
comment on column mail.stream.priority is '0 goes first, 9 last; a message may name its own.';
comment on column mail.stream.route is 'Providers in the order they are tried.';
comment on column mail.stream.on_unknown is
  'When nobody can know whether a provider took a message: retry sends again (at least once), hold waits for a person or a webhook.';
comment on column mail.stream.attempts is 'Failed attempts before a message becomes a dead letter.';
comment on column mail.stream.slots is 'Sends in flight at once, per provider and worker process.';
comment on column mail.stream.unsubscribe is
  'Its mail can be unsubscribed from: List-Unsubscribe, and unsubscribe_url in templates. Needs SLUICE_PUBLIC_URL, or unsubscribe_mailto.';
comment on column mail.stream.unsubscribe_mailto is 'An address that is offered beside the link; whoever reads its mail unsubscribes who asks.';
comment on column mail.stream.requires_unsubscribe is 'A message that offers no way to unsubscribe is a dead letter.';
comment on column mail.stream.postal_address is 'The sender''s, as postal_address in templates.';
comment on column mail.stream.requires_postal_address is 'A message that does not show the postal address is a dead letter.';
comment on column mail.stream.is_sensitive is
  'The content of its mail is encrypted wherever it is stored, removed on sending, and never shown. A message may say so of itself: "sensitive": true.';
comment on column mail.stream.bounce_domain is
  'Mail that goes out by SMTP has an envelope sender of its own there (bounce+…@), so that a bounce tells which message it is about. Null: the From address.';

insert into mail.stream (name, priority, on_unknown, unsubscribe) values
  ('transactional', 3, 'retry', false),
  ('alerts', 2, 'retry', false),
  ('marketing', 7, 'hold', true);

create table mail.provider (
  name text primary key
    constraint provider_name_is_short_and_plain check (name ~ '^[a-z0-9_-]{1,64}$'),
  transport text not null
    constraint transport_is_known check (transport in ('smtp', 'inbox', 'ses', 'sendgrid', 'mailgun', 'postmark', 'resend')),
  credentials_env text
    constraint credentials_env_is_a_variable_name check (credentials_env ~ '^[A-Z_][A-Z0-9_]*$'),
  base_url text
    constraint base_url_is_an_http_url check (base_url ~ '^https?://'),
  options jsonb not null default '{}'
    constraint options_are_an_object check (jsonb_typeof(options) = 'object'),
  created_at timestamptz not null default now(),
  constraint provider_names_its_variable check (transport = 'inbox' or credentials_env is not null)
);
comment on table mail.provider is 'Where mail leaves: SMTP relays, HTTP providers, and the local inbox of development.';
comment on column mail.provider.base_url is 'Another address of an HTTP provider: another region, a stand-in in tests.';
comment on column mail.provider.options is
  'ses: region, configuration_set; mailgun: domain, region (us, eu); postmark: message_stream.';
comment on column mail.provider.credentials_env is
  'Name of the environment variable that holds the credentials; they are never stored here.';

create unlogged table mail.intake (
  id uuid not null default mail.uuid7(),
  seq bigint not null default nextval('mail.message_seq'),
  received_at timestamptz not null default clock_timestamp(),
  priority smallint
    constraint priority_is_0_to_9 check (priority between 0 and 9),
  stream text
    constraint stream_name_is_at_most_64_long check (length(stream) <= 64),
  idempotency_key text
    constraint idempotency_key_is_1_to_256_long check (length(idempotency_key) between 1 and 256),
  mover uuid,
  source text not null default session_user
    constraint source_is_at_most_200_long check (length(source) <= 200),
  message json not null
    -- The text: what is stored may be compressed a hundredfold, and comes out in full.
    constraint message_is_at_most_32_mb check (octet_length(message::text) <= 33554432)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
comment on table mail.intake is
  'The fast door: append only, UNLOGGED. A crash of Postgres empties it (see mail.intake_loss); rows stay for milliseconds, until the mover takes them.';
comment on column mail.intake.message is 'The JSON of POST /emails, key for key; checked by the mover.';
comment on column mail.intake.priority is 'Unset: the stream''s own.';
comment on column mail.intake.mover is
  'The process whose caller waits for this row; the others leave it alone for the first moments.';
comment on column mail.intake.source is 'Who sent it, for grouping failures: the role by default.';

create table mail.outbox (like mail.intake including all)
  with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
comment on table mail.outbox is
  'The durable door: same columns as mail.intake, logged; commits with the caller''s own transaction.';

-- Gone in milliseconds, and never in the log: compressing it would be most of what a large mail costs.
alter table mail.intake alter column message set storage external;

-- Urgent first, then in order of arrival. A row without a priority waits in the middle: its stream is
-- looked up by the mover, not at the door.
create unique index intake_order on mail.intake ((coalesce(priority, 5::smallint)), seq);
create unique index outbox_order on mail.outbox ((coalesce(priority, 5::smallint)), seq);
create index outbox_key on mail.outbox (idempotency_key) where idempotency_key is not null;

create table mail.idempotency (
  scope text not null,
  key text not null,
  fingerprint bytea not null,
  message_ids uuid[] not null,
  answer json,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  primary key (scope, key)
);
comment on table mail.idempotency is
  'Keys already used, written with the messages they stand for: by the mover, or by the request that brought a batch. Same key and fingerprint: the first answer again. Other fingerprint: refused.';
comment on column mail.idempotency.scope is 'Always send: a key means one thing over every door, single and batch alike.';
comment on column mail.idempotency.fingerprint is
  'mail.fingerprint of the message as it was given; of a batch, a hash of its kind and all that was in it.';
comment on column mail.idempotency.message_ids is 'In the order given.';
comment on column mail.idempotency.answer is 'What the first answer to a batch said beside its ids.';

create function mail.content_by_hash(attachments jsonb) returns jsonb
language sql immutable strict
set search_path = pg_catalog, mail, pg_temp
as $$
  select coalesce(
    jsonb_agg(
      case jsonb_typeof(given -> 'content')
        when 'string' then
          (given - 'content') || jsonb_build_object('sha256', encode(sha256(decode(given ->> 'content', 'base64')), 'hex'))
        else given
      end
      order by place
    ),
    '[]'
  )
  from jsonb_array_elements(attachments) with ordinality as list (given, place)
$$;
comment on function mail.content_by_hash(jsonb) is
  'Attachments with the hash of their bytes in place of the bytes: how the REST door hands them on.';

create function mail.fingerprint(message text) returns bytea
language plpgsql immutable strict
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  given jsonb;
begin
  if message like '{"digests":%' then
    return (fingerprints(message))[1];
  end if;
  -- jsonb sorts keys, drops duplicates and white space: equal messages have equal text.
  given := message::jsonb;
  if jsonb_typeof(given -> 'attachments') = 'array' then
    given := jsonb_set(given, '{attachments}', content_by_hash(given -> 'attachments'));
  end if;
  return sha256(convert_to(given::text, 'UTF8'));
exception
  when data_exception or program_limit_exceeded then
    -- JSON that jsonb cannot hold (a NUL under a key that is given twice, a number of 20,000 digits) may
    -- still be a good message to the mover, and must not stop it: the same only letter by letter.
    return sha256(convert_to(message, 'UTF8'));
end
$$;
comment on function mail.fingerprint(text) is
  'What makes two messages, given as JSON, the same under one idempotency key: the order of keys and white space do not count, and neither does whether an attachment is given as its bytes or by their hash.';

create function mail.fingerprints(message text) returns bytea[]
language sql immutable strict
set search_path = pg_catalog, mail, pg_temp
as $$
  select case
    -- Of a message that comes encrypted they come along, since no two encryptions are alike.
    when message like '{"digests":%' then array(
      select decode(given.digest, 'hex')
      from json_array_elements_text(message::json -> 'digests') with ordinality as given (digest, place)
      where given.digest ~ '^[0-9a-f]{64}$'
      order by given.place
    )
    else array[mail.fingerprint(message)]
  end
$$;
comment on function mail.fingerprints(text) is
  'Each fingerprint that the same message may have been stored under, the one it gets first: of sensitive mail one for each encryption key.';
