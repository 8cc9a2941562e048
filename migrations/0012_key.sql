-- How many requests each API key may make: a token bucket for each, shared by all processes.

-- Unlogged: a commit here never waits for the disk, and all a crash of Postgres does is fill the buckets.
create unlogged table mail.api_key_bucket (
  key_id text primary key references mail.api_key (id) on delete cascade,
  tokens double precision not null
    constraint tokens_are_not_negative check (tokens >= 0),
  refilled_at timestamptz not null
) with (fillfactor = 50);
comment on table mail.api_key_bucket is
  'What each key with a rate limit may still ask for, as of refilled_at; it refills when it is asked. No row: full.';

create function mail.take_request_tokens(
  key_id text,
  want integer,
  out granted integer,
  out remaining integer,
  out quota integer,
  out reset_s integer,
  out retry_after_s integer
)
language plpgsql volatile
set search_path = pg_catalog, mail, pg_temp
as $$
declare
  rate double precision;
  bucket mail.api_key_bucket;
  moment timestamptz;
  level double precision;
begin
  select k.rate_limit_per_s, coalesce(k.rate_burst, greatest(1, ceil(k.rate_limit_per_s)))
  into rate, quota
  from mail.api_key k
  where k.id = take_request_tokens.key_id;
  if rate is null then
    granted := want;
    quota := null;
    return;
  end if;

  insert into mail.api_key_bucket (key_id, tokens, refilled_at)
  select take_request_tokens.key_id, take_request_tokens.quota, clock_timestamp()
  where not exists (select from mail.api_key_bucket b where b.key_id = take_request_tokens.key_id)
  on conflict do nothing;
  select b.* into bucket from mail.api_key_bucket b where b.key_id = take_request_tokens.key_id for update;
  -- Read once the row is ours: whoever waited for it counts the time that passed meanwhile.
  moment := clock_timestamp();
  level := least(quota, bucket.tokens + greatest(0, extract(epoch from moment - bucket.refilled_at)) * rate);
  granted := least(want, floor(level));
  level := level - granted;
  update mail.api_key_bucket b
  set tokens = level, refilled_at = moment
  where b.key_id = take_request_tokens.key_id;

  remaining := floor(level);
  reset_s := ceil((quota - level) / rate);
  retry_after_s := greatest(1, ceil((1 - level) / rate));
end
$$;
comment on function mail.take_request_tokens(text, integer) is
  'How many of so many requests of a key may go on; they count. With it: what is left of its quota, in how many seconds that is full again, and when one more may be asked. A key without a limit has no quota.';
