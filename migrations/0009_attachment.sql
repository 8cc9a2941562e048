-- The bytes of attachments: each stored once under its SHA-256, however many messages carry it. A message
-- holds the name, the type and the hash. What no message uses any more is removed by upkeep.

create table mail.attachment (
  sha256 bytea primary key
    constraint attachment_is_named_by_its_sha256 check (sha256 = sha256(content)),
  size integer not null
    constraint size_is_the_length_of_content check (size = octet_length(content))
    constraint attachment_is_1_byte_to_40_mb check (size between 1 and 41943040),
  created_at timestamptz not null default now(),
  given_at timestamptz not null default now(),
  content bytea not null
);

-- Out of line and uncompressed: most attachments are compressed already, and a look at the size reads no content.
alter table mail.attachment
  alter column content set storage external;

comment on table mail.attachment is
  'Bytes of attachments by SHA-256, stored once however many messages carry them. Removed a day after they were last given, unless a message uses them.';
comment on column mail.attachment.given_at is
  'When somebody last handed in these bytes, to the hour: for a day they are kept without a use, until the message that names them has come through its door.';

create table mail.attachment_use (
  sha256 bytea not null references mail.attachment,
  day date not null,
  stream text not null,
  primary key (sha256, day, stream)
);
create index attachment_use_of_day on mail.attachment_use (day);
comment on table mail.attachment_use is
  'On which days and in which streams messages were accepted that carry an attachment: it is kept as long as the content of one of them is.';
comment on column mail.attachment_use.day is 'The UTC day in the ids of the messages, as their partitions are cut.';

create function mail.uuid7_day(id uuid) returns date
language sql immutable strict parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  select (
    to_timestamp(('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0) at time zone 'utc'
  )::date
$$;
comment on function mail.uuid7_day(uuid) is 'The UTC day in a time-ordered id.';

create function mail.is_fresh_attachment(sha256 bytea, given_at timestamptz) returns boolean
language sql stable
set search_path = pg_catalog, mail, pg_temp
as $$
  select is_fresh_attachment.given_at > now() - interval '1 hour'
    or exists (
      select from attachment_use u
      where u.sha256 = is_fresh_attachment.sha256 and u.day >= (now() at time zone 'utc')::date - 1
    )
$$;
comment on function mail.is_fresh_attachment(bytea, timestamptz) is
  'True while stored bytes stay for a day anyway: somebody gave them within the hour, or mail of today or yesterday uses them.';

create function mail.attach(content bytea) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  digest bytea := sha256(attach.content);
begin
  if attach.content is null or octet_length(attach.content) not between 1 and 41943040 then
    raise exception 'an attachment has 1 byte to 40 MB, not %', coalesce(octet_length(attach.content)::text, 'null')
      using errcode = 'invalid_parameter_value';
  end if;
  -- Neither locked nor inserted where hashes are unique: this transaction may stay open, and would hold up others
  -- with the same bytes, the mover among them.
  if not exists (select from attachment a where a.sha256 = digest and is_fresh_attachment(a.sha256, a.given_at))
    and not exists (select from attachment_given g where g.sha256 = digest and g.given_at > now() - interval '1 hour') then
    insert into attachment_given (sha256, content) values (digest, attach.content);
  end if;
  return encode(digest, 'hex');
end
$$;
comment on function mail.attach(bytea) is
  'Stores the bytes of an attachment, once; returns their SHA-256 for {"filename": …, "sha256": …} in any number of messages within a day.';
