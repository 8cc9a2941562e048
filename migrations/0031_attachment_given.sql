-- What SQL writers hand in with mail.attach waits in a table of its own. Bytes are stored once, under their hash: an
-- insert of a hash that another transaction has inserted and not committed waits for it, and so would the mover.

create table mail.attachment_given (
  sha256 bytea not null,
  given_at timestamptz not null default now(),
  content bytea not null
);
create index attachment_given_sha256 on mail.attachment_given (sha256);
create index attachment_given_at on mail.attachment_given (given_at);
alter table mail.attachment_given alter column content set storage external;
comment on table mail.attachment_given is
  'Bytes from mail.attach until the first message names them, or for a day. No hash is unique here: a writer''s transaction may stay open for long, and holds up nobody.';

create function mail.adopt_attachments(wanted bytea[]) returns integer
language sql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
  with adopted as (
    insert into mail.attachment (sha256, size, content)
    select distinct on (g.sha256) g.sha256, octet_length(g.content), g.content
    from mail.attachment_given g
    where g.sha256 = any (wanted) and not exists (select from mail.attachment a where a.sha256 = g.sha256)
    -- In the order of all who store bytes.
    order by g.sha256
    on conflict (sha256) do update set given_at = now()
    returning 1
  )
  select count(*)::integer from adopted
$$;
comment on function mail.adopt_attachments(bytea[]) is
  'Stores what mail.attach was given under these hashes where messages find it; for a message that names them now.';
