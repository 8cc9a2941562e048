-- What the links to unsubscribe are signed with.

create table if not exists mail.secret (
  name text primary key,
  value bytea not null,
  created_at timestamptz not null default now()
);
comment on table mail.secret is
  'Keys that the service makes for itself at first use, for links and addresses that come back to it. Changing one makes void what was sent before.';
