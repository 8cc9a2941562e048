import type { Database } from '../../src/db/pool.ts'
import { type Retained, retain } from '../../src/upkeep/queries.ts'
import type { TestDatabase } from './database.ts'

/** All that is due now, step by step; what each step did. */
export async function retainAll(db: Database, most?: number): Promise<Retained[]> {
  const steps: Retained[] = []
  for (let step = await retain(db, most); step !== undefined; step = await retain(db, most)) steps.push(step)
  return steps
}

const DAILY = [
  'message',
  'message_content',
  'message_prepared',
  'event',
  'finder',
  'provider_ref',
  'feedback_seen',
]

/** The partitions of a day in the past, as upkeep would have made them. */
export async function makePartitions(
  { query }: Pick<TestDatabase, 'query'>,
  daysAgo: readonly number[],
): Promise<void> {
  await query(
    `do $$
     declare
       day date;
       parent text;
     begin
       foreach parent in array array['${DAILY.join("','")}'] loop
         for day in select (now() at time zone 'utc')::date - ago from unnest('{${daysAgo.join(',')}}'::integer[]) ago loop
           continue when to_regclass('mail.' || parent || to_char(day, '_YYYYMMDD')) is not null;
           execute format('create table mail.%I partition of mail.%I for values from (%L) to (%L)',
             parent || to_char(day, '_YYYYMMDD'), parent,
             mail.uuid7_floor(day::timestamp at time zone 'utc'), mail.uuid7_floor((day + 1)::timestamp at time zone 'utc'));
           execute format('alter table mail.%I owner to %s', parent || to_char(day, '_YYYYMMDD'),
             (select relowner::regrole from pg_class where oid = 'mail.message'::regclass));
         end loop;
       end loop;
     end $$`,
  )
}

export type OldMessage = {
  /** Whole UTC days since the day it was accepted on. */
  readonly daysAgo: number
  readonly stream?: string
  readonly status?: string
  readonly sha256?: string
}

/** Messages as they lie in the tables so many days later, each with a row in all that hangs on it; returns their ids. */
export async function insertOld(
  { query }: Pick<TestDatabase, 'query'>,
  messages: readonly OldMessage[],
): Promise<string[]> {
  const rows = messages.map(({ daysAgo, stream = 'transactional', status = 'sent', sha256 }) => {
    return { daysAgo, stream, status, sha256 }
  })
  const stored = await query<{ id: string }>(
    `with given as materialized (
       select
         -- Noon of that day.
         (left(mail.uuid7_floor(at)::text, 14) || right(gen_random_uuid()::text, 22))::uuid as id,
         place, at, stream, status, sha256
       from rows from (json_to_recordset($1::json) as ("daysAgo" integer, stream text, status text, sha256 text)) with ordinality
         as given ("daysAgo", stream, status, sha256, place)
       cross join lateral (
         select ((now() at time zone 'utc')::date - "daysAgo" + interval '12 hours') at time zone 'utc' as at
       ) noon
     ), message as (
       insert into mail.message (id, seq, accepted_at, priority, status, stream, provider, source, worker)
       select id, place, at, 5, status, stream, 'default', 'test', case status when 'sending' then 1 end from given
     ), content as (
       insert into mail.message_content (id, message)
       select id, json_build_object(
         'from', json_build_object('address', 'shop@example.com'),
         'to', json_build_array(json_build_object('address', 'ann@example.net')),
         'cc', '[]'::json, 'bcc', '[]'::json, 'reply_to', '[]'::json, 'tags', '[]'::json, 'metadata', '{}'::json,
         'subject', 'Hello', 'html', 'Hi', 'attachments', json_build_array(json_build_object('sha256', sha256))
       )
       from given
     ), prepared as (
       insert into mail.message_prepared (id, html) select id, 'Hi' from given
     ), event as (
       insert into mail.event (message_id, type) select id, 'accepted' from given
     ), finder as (
       insert into mail.finder (term, message_id) select 'to:ann@example.net', id from given
     ), ref as (
       insert into mail.provider_ref (message_id, provider, provider_message_id) select id, 'default', 'x' from given
     ), seen as (
       insert into mail.feedback_seen (message_id, key) select id, 'x' from given
     ), dead as (
       insert into mail.dead_letter (message_id, stage, code, reason, stream, source, died_at)
       select id, 'dispatch', 'smtp_refused', 'no', stream, 'test', at from given where status = 'dead'
     ), used as (
       insert into mail.attachment_use (sha256, day, stream)
       select distinct decode(sha256, 'hex'), mail.uuid7_day(id), stream from given where sha256 is not null
     )
     select id from given order by place`,
    [JSON.stringify(rows)],
  )
  return stored.map(({ id }) => id)
}
