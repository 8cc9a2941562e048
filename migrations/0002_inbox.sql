-- The local inbox: what the SMTP sink inside the process took in, kept for a developer to look at.

create table mail.inbox (
  id bigint generated always as identity primary key,
  received_at timestamptz not null default clock_timestamp(),
  mail_from text not null,
  recipients text[] not null,
  size_bytes integer not null
    constraint size_bytes_is_the_length_of_raw check (size_bytes = octet_length(raw)),
  subject text,
  sender text,
  message_id uuid,
  raw bytea not null
);

-- Out of line and uncompressed: a list reads no bodies, and slicing or sending a body inflates nothing.
alter table mail.inbox
  alter column raw set storage external;

comment on table mail.inbox is
  'Mail the local SMTP sink accepted in development; only the newest are kept, nothing here was sent to anybody.';
comment on column mail.inbox.mail_from is
  'MAIL FROM of the envelope; empty for the null sender <>.';
comment on column mail.inbox.recipients is
  'RCPT TO of the envelope, so Bcc recipients are here too.';
comment on column mail.inbox.size_bytes is
  'Length of raw.';
comment on column mail.inbox.subject is
  'Subject header, decoded; null when the mail has none.';
comment on column mail.inbox.sender is
  'From header as a mail program shows it, decoded; null when the mail has none.';
comment on column mail.inbox.message_id is
  'X-Sluice-Id header: mail.message.id of the message this mail is; null for mail that came from elsewhere.';
comment on column mail.inbox.raw is
  'The message as received in DATA, dots unstuffed.';
