-- The bytes of attachments, each content once however many messages carry it.

create table mail.attachment (
  sha256 bytea primary key
    constraint sha256_is_32_bytes check (length(sha256) = 32),
  size integer not null,
  content bytea not null,
  created_at timestamptz not null default now()
);
-- Out of line and not compressed: a slice is then read without the rest.
alter table mail.attachment alter column content set storage external;
comment on table mail.attachment is 'Contents of attachments by their SHA-256, stored once.';
