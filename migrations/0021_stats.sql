-- Numbers per day, kept as things happen: a reader of the event feed adds to small tables, nothing is ever counted anew.

create table mail.stat (
  day date not null,
  stream text not null,
  provider text not null,
  template text not null,
  template_version integer not null,
  domain text not null,
  tag text not null,
  sent bigint not null default 0,
  delivered bigint not null default 0,
  deferred bigint not null default 0,
  bounced bigint not null default 0,
  complained bigint not null default 0,
  opened bigint not null default 0,
  clicked bigint not null default 0,
  unsubscribed bigint not null default 0,
  suppressed bigint not null default 0,
  dead bigint not null default 0,
  primary key (day, stream, provider, template, template_version, domain, tag),
  constraint row_of_a_tag_has_no_other_key check (tag = '' or (provider, template, domain) = ('', '', ''))
);
comment on table mail.stat is
  'Counts per UTC day of the event. Rows with an empty tag hold everything once; those with a tag hold the messages of a stream that carry it, once for each tag they have.';
comment on column mail.stat.domain is
  'Of the recipient the event is about, otherwise of the first one; (other) beyond 500 in a day and stream.';
comment on column mail.stat.sent is 'Messages a provider took.';
comment on column mail.stat.deferred is 'Attempts put off, at the provider or by it.';
comment on column mail.stat.opened is 'Times, not people: a message opened twice counts twice.';

create table mail.stat_time (
  day date not null,
  stream text not null,
  provider text not null,
  template text not null,
  template_version integer not null,
  domain text not null,
  tag text not null,
  bucket smallint not null,
  messages bigint not null,
  primary key (day, stream, provider, template, template_version, domain, tag, bucket)
);
comment on table mail.stat_time is
  'How many messages took how long from acceptance (or the time they were scheduled for) to the provider''s acceptance, in the buckets of mail.time_bounds().';

create table mail.stat_value (
  day date not null,
  stream text not null,
  kind text not null
    constraint kind_is_domain_or_tag check (kind in ('domain', 'tag')),
  value text not null,
  primary key (day, stream, kind, value)
);
comment on table mail.stat_value is
  'Domains and tags that are counted by name, at most 500 of each in a day and stream, first come first served: a tag with an order number in it must not make a row for each order.';

create function mail.time_bounds() returns double precision[]
language sql immutable parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  select array[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400]::double precision[]
$$;
comment on function mail.time_bounds() is 'Upper bounds in seconds of the buckets of mail.stat_time; bucket 0 is below the first.';

create function mail.time_at(share double precision, buckets smallint[], counts numeric[]) returns double precision
language sql immutable parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  select low + (coalesce(high, low) - low) * (share * total - (up_to - messages)) / messages
  from (
    select
      coalesce((mail.time_bounds())[nullif(bucket, 0)], 0) as low,
      (mail.time_bounds())[bucket + 1] as high,
      messages::double precision as messages,
      (sum(messages) over (order by bucket))::double precision as up_to,
      (sum(messages) over ())::double precision as total
    from unnest(buckets, counts) as t (bucket, messages)
    where messages > 0
  ) bucket
  where up_to >= share * total
  order by low
  limit 1
$$;
comment on function mail.time_at(double precision, smallint[], numeric[]) is
  'An estimate, in seconds, of the time within which this share (0 to 1) went out: straight between the bounds of a bucket, the lower bound in the last.';

create view mail.stats as
select s.*, t.p50_s, t.p95_s, t.p99_s
from mail.stat s
left join lateral (
  select
    mail.time_at(0.5, array_agg(bucket), array_agg(messages::numeric)) as p50_s,
    mail.time_at(0.95, array_agg(bucket), array_agg(messages::numeric)) as p95_s,
    mail.time_at(0.99, array_agg(bucket), array_agg(messages::numeric)) as p99_s
  from mail.stat_time t
  where (t.day, t.stream, t.provider, t.template, t.template_version, t.domain, t.tag)
    = (s.day, s.stream, s.provider, s.template, s.template_version, s.domain, s.tag)
) t on true;
comment on view mail.stats is
  'mail.stat with the time to send at the 50th, 95th and 99th percentile, estimated from buckets. Sum where tag is empty, or where it is not: never both.';

insert into mail.consumer (name, cursor) values ('stats', '0:0');
