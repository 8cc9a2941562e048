-- What providers say happened to mail, matched to our messages, and what it means for the addresses.

create table mail.provider_ref (
  message_id uuid not null,
  provider text not null,
  provider_message_id text not null
) partition by range (message_id);
create index provider_ref_by_id on mail.provider_ref (provider_message_id);
create table mail.provider_ref_default partition of mail.provider_ref default;
comment on table mail.provider_ref is
  'Ids that HTTP providers gave our messages, append only: how their events are matched when they carry nothing of ours.';
comment on column mail.provider_ref.provider_message_id is
  'Without what the same provider adds to it or leaves out in other places (brackets, a domain, the name of a server).';

create table mail.feedback_seen (
  message_id uuid not null,
  key text not null,
  primary key (message_id, key)
) partition by range (message_id);
create table mail.feedback_seen_default partition of mail.feedback_seen default;
comment on table mail.feedback_seen is 'Provider events that were applied: told again, they change nothing.';

create table mail.feedback_unmatched (
  id bigint generated always as identity primary key,
  provider text not null,
  key text not null,
  event json not null,
  message_id uuid,
  received_at timestamptz not null default now(),
  tries integer not null default 0,
  next_try_at timestamptz,
  constraint event_waits_once unique (provider, key)
);
create index feedback_unmatched_due on mail.feedback_unmatched (next_try_at) where next_try_at is not null;
comment on table mail.feedback_unmatched is
  'Provider events that could not be applied yet: their message is unknown here, or still under way. Tried again for a while, then kept to be looked at.';
comment on column mail.feedback_unmatched.message_id is 'The message it is about, which is still being sent; null when none is known.';
comment on column mail.feedback_unmatched.next_try_at is 'Null: given up.';

create table mail.suppression_rule (
  one boolean primary key default true
    constraint there_is_one_row check (one),
  hard_codes text[] not null default '{5.1.1,5.1.2,5.1.3,5.1.6,5.1.10}',
  soft_bounces integer not null default 5
    constraint soft_bounces_is_positive check (soft_bounces > 0),
  soft_within interval not null default '14 days'
    constraint soft_within_is_positive check (soft_within > interval '0'),
  soft_for interval not null default '30 days'
    constraint soft_for_is_positive check (soft_for > interval '0')
);
insert into mail.suppression_rule default values;
comment on table mail.suppression_rule is 'When a bounce keeps further mail from an address. One row, changed live.';
comment on column mail.suppression_rule.hard_codes is
  'Enhanced status codes (RFC 3463, RFC 7505) that speak of the address itself: suppressed at the first.';
comment on column mail.suppression_rule.soft_bounces is
  'So many soft bounces within soft_within, and no delivery between or since, suppress the address for soft_for.';

create function mail.recipients_of(message json) returns text[]
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select coalesce(array_agg(distinct lower(each.mailbox ->> 'address')) filter (where each.mailbox ->> 'address' is not null), '{}')
  from json_to_record(case json_typeof(message) when 'object' then message else '{}' end) as envelope ("to" json, cc json, bcc json)
  cross join lateral (values (envelope."to"), (envelope.cc), (envelope.bcc)) as list (mailboxes)
  cross join lateral json_array_elements(case json_typeof(list.mailboxes) when 'array' then list.mailboxes else '[]' end) as each (mailbox)
$$;
comment on function mail.recipients_of(json) is 'Everybody a stored message is addressed to (to, cc, bcc), in lower case, each once.';

create function mail.bounce_class(detail json, hard_codes text[]) returns text
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select case
    -- Policy, reputation and rates are about us, whatever else the code says (RFC 3463 section 3.8).
    when status ~ '^[45]\.7\.' then null
    when words ~* '\m(rate[ -]?limit|throttl|too many (messages|mails|emails|connections|requests)|too fast|unusual rate|gr[ae]y ?list|polic(y|ies)\M|reputation|black ?list|block ?list|spam)' then null
    -- Without a kind it is a refusal that dispatch met, and its verdict says whether it is about the mailbox.
    when kind is null and verdict not in ('bad_recipient', 'mailbox_full') then null
    when kind = 'undetermined' then null
    when status = any (hard_codes) and kind is distinct from 'soft' then 'hard'
    when kind = 'hard' and coalesce(status, '5.0.0') = '5.0.0' then 'hard'
    else 'soft'
  end
  from (
    select
      detail ->> 'kind' as kind,
      detail ->> 'enhanced_code' as status,
      coalesce(detail ->> 'code', '') as verdict,
      -- An address is no word about us; nor is a host where a provider has judged the bounce already.
      regexp_replace(
        coalesce(detail ->> 'reason', detail ->> 'reply', ''),
        case detail ->> 'kind' when 'hard' then '\S*(?:@|://|\w\.[a-z]{2,})\S*' else '\S*@\S*' end,
        ' ', 'gi'
      ) as words
  ) said
$$;
comment on function mail.bounce_class(json, text[]) is
  'What a bounce, or a refusal at the relay, says of the address: hard, soft, or nothing (null). Takes the detail of its event.';

create function mail.origin_rank(origin text) returns integer
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select array_position(array['import', 'manual', 'bounce', 'unsubscribe', 'complaint'], origin)
$$;
comment on function mail.origin_rank(text) is 'Which of two suppressions of one address is told of: the one with the stronger evidence.';

create function mail.store_suppressions(entries json) returns setof mail.suppression
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
begin
  insert into mail.suppression as s (address, scope, origin, reason, source, evidence, expires_at)
  select distinct on (e.address, e.scope)
    e.address, e.scope, e.origin, e.reason, coalesce(e.source, session_user), e.evidence, e.expires_at
  from json_to_recordset(entries) as e (
    address text, scope text, origin text, reason text, source text, evidence jsonb, expires_at timestamptz
  )
  -- In one order everywhere, so that two writers cannot wait for each other.
  order by e.address, e.scope, coalesce(e.expires_at, 'infinity') desc, mail.origin_rank(e.origin) desc,
    e.evidence ->> 'at', e.evidence ->> 'message_id'
  on conflict on constraint suppression_pkey do update
  set origin = excluded.origin,
    reason = excluded.reason,
    source = excluded.source,
    evidence = excluded.evidence,
    expires_at = excluded.expires_at,
    created_at = case when s.expires_at <= now() then excluded.created_at else s.created_at end
  -- The one that holds longer stays, then the one with the stronger evidence, then the earlier evidence: the
  -- same whatever order they come in. A person's word replaces another person's.
  where s.expires_at <= now()
    or (s.evidence ->> 'rule' = 'soft' and excluded.evidence ->> 'rule' = 'soft')
    or (coalesce(excluded.expires_at, 'infinity'), mail.origin_rank(excluded.origin))
      > (coalesce(s.expires_at, 'infinity'), mail.origin_rank(s.origin))
    or (
      coalesce(excluded.expires_at, 'infinity') = coalesce(s.expires_at, 'infinity')
      and excluded.origin = s.origin
      and (
        excluded.origin in ('manual', 'import')
        or (excluded.evidence ->> 'at', excluded.evidence ->> 'message_id') < (s.evidence ->> 'at', s.evidence ->> 'message_id')
      )
    );
  return query
    select s.*
    from mail.suppression s
    where (s.address, s.scope) in (
      select e.address, e.scope from json_to_recordset(entries) as e (address text, scope text)
    );
end
$$;
comment on function mail.store_suppressions(json) is
  'Puts addresses on the list, or finds them there with as much reason; returns their rows. What people, imports and the rules use.';

create function mail.suppress_many(
  addresses text[],
  reason text default 'manual',
  scope text default '*',
  expires_at timestamptz default null
) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  listed integer;
begin
  select count(*) into listed
  from mail.store_suppressions((
    select coalesce(json_agg(json_build_object(
      'address', mail.plain_address(given.address), 'scope', suppress_many.scope, 'origin', 'import',
      'reason', suppress_many.reason, 'source', session_user, 'expires_at', suppress_many.expires_at
    )), '[]')
    from unnest(addresses) as given (address)
  ));
  return listed;
end
$$;
comment on function mail.suppress_many(text[], text, text, timestamptz) is
  'No more mail to any of these addresses: all of them or, when one is no address, none. Returns how many are on the list now. Safe to repeat.';

create function mail.suppress_after(facts json) returns integer
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  rule mail.suppression_rule;
  swayed text[];
  entries json;
  may_add boolean;
begin
  select * into strict rule from mail.suppression_rule;
  -- Two batches that each bring half of the bounces would not see each other's. Deliveries only ever lift, so
  -- they exclude bounces but not one another.
  may_add := exists (select from json_to_recordset(facts) as fact (type text) where fact.type <> 'delivered');
  if may_add then
    perform from mail.latch l where l.name = 'suppress_after' for update;
  else
    perform from mail.latch l where l.name = 'suppress_after' for share;
  end if;

  swayed := array(
    select fact.recipient
    from json_to_recordset(facts) as fact (type text, recipient text, detail json)
    where fact.type in ('bounced', 'recipient_refused') and mail.bounce_class(fact.detail, rule.hard_codes) = 'soft'
    union
    select s.address
    from json_to_recordset(facts) as fact (type text, recipient text)
    join mail.suppression s on s.address = fact.recipient
    where fact.type = 'delivered' and s.scope = '*' and s.evidence ->> 'rule' = 'soft' and s.expires_at > now()
  );

  with told as (
    select
      fact.*,
      case
        when fact.type = 'complained' then 'complaint'
        when fact.type = 'unsubscribed' then 'unsubscribe'
        when fact.type in ('bounced', 'recipient_refused') then nullif(mail.bounce_class(fact.detail, rule.hard_codes), 'soft')
      end as rule_name
    from json_to_recordset(facts) as fact (message_id uuid, recipient text, type text, at text, detail json)
  ), for_good as (
    select
      told.recipient as address,
      case told.type when 'unsubscribed' then m.stream else '*' end as scope,
      case told.rule_name when 'hard' then 'bounce' else told.rule_name end as origin,
      case told.rule_name
        when 'hard' then concat_ws(' ', 'hard bounce', told.detail ->> 'enhanced_code')
        when 'complaint' then 'complained of a message'
        else 'unsubscribed'
      end as reason,
      null::timestamptz as expires_at,
      mail.suppression_evidence(told.rule_name, told.at, told.message_id, told.detail) as evidence
    from told
    join mail.message m on m.id = told.message_id
    where told.rule_name is not null
  ), soft_bounce as (
    select distinct on (lower(e.recipient), e.message_id)
      lower(e.recipient) as address, e.message_id, e.at, e.detail
    from mail.event e
    where lower(e.recipient) = any (swayed) and e.type in ('bounced', 'recipient_refused')
      -- Only to leave out old partitions: nobody bounces a message a month later.
      and e.message_id >= mail.uuid7_floor(now() - rule.soft_within - interval '30 days')
      and mail.bounce_class(e.detail, rule.hard_codes) = 'soft'
    order by 1, 2, e.at
  ), delivery as (
    select lower(e.recipient) as address, max(e.at) as at
    from mail.event e
    where lower(e.recipient) = any (swayed) and e.type = 'delivered'
      and e.message_id >= mail.uuid7_floor(now() - rule.soft_within - interval '30 days')
    group by 1
  ), counted as (
    select
      b.*,
      count(*) over (
        partition by b.address order by b.at range between rule.soft_within preceding and current row
      ) as bounces
    from soft_bounce b
    left join delivery d using (address)
    where d.at is null or b.at > d.at
  ), persistent as (
    select distinct on (address) *
    from counted
    where bounces >= rule.soft_bounces
    order by address, at desc, message_id desc
  ), for_a_while as (
    select
      address,
      format('%s soft bounces within %s', bounces, rule.soft_within) as reason,
      at + rule.soft_for as expires_at,
      mail.suppression_evidence('soft', to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), message_id, detail) as evidence
    from persistent
    where may_add and at + rule.soft_for > now()
  ), lifted as (
    select s.address, s.reason, d.at as expires_at, s.evidence
    from mail.suppression s
    join delivery d on d.address = s.address
    where s.address = any (swayed) and s.scope = '*' and s.evidence ->> 'rule' = 'soft'
      and not exists (select from persistent p where p.address = s.address)
  )
  select json_agg(e) into entries
  from (
    select address, scope, origin, reason, 'feedback' as source, evidence, expires_at from for_good
    union all
    select address, '*', 'bounce', reason, 'feedback', evidence, expires_at from for_a_while
    union all
    select address, '*', 'bounce', reason, 'feedback', evidence, least(expires_at, now()) from lifted
  ) e;
  if entries is null then
    return 0;
  end if;
  perform mail.store_suppressions(entries);
  return json_array_length(entries);
end
$$;
comment on function mail.suppress_after(json) is
  'What bounces, refusals, complaints, unsubscribes and deliveries mean for their addresses, once their events are written: [{message_id, recipient, type, at, detail}]. The same list whatever order they come in.';

create function mail.suppression_evidence(rule text, at text, message_id uuid, detail json) returns jsonb
language sql immutable
set search_path = pg_catalog, mail, pg_temp
as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'rule', rule,
    'at', at,
    'message_id', message_id,
    'provider', detail ->> 'provider',
    'code', detail ->> 'enhanced_code',
    'reason', left(coalesce(detail ->> 'reason', detail ->> 'reply'), 500)
  ))
$$;
comment on function mail.suppression_evidence(text, text, uuid, json) is 'Why an address was suppressed: the rule, and the event that met it.';

select mail.ensure_partitions();
