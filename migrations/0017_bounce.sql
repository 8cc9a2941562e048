-- Bounces and complaints that come by mail, and the addresses they come back to.

create table if not exists mail.secret (
  name text primary key,
  value bytea not null,
  created_at timestamptz not null default now()
);
comment on table mail.secret is
  'Keys that the service makes for itself at first use, for links and addresses that come back to it. Changing one makes void what was sent before.';

-- POST /webhooks/dsn, at once usable with an API key that may operate.
insert into mail.webhook_source (name, kind) values ('dsn', 'dsn');
