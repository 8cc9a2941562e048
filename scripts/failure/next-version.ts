import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { migrate } from '../../src/db/migrate.ts'
import type { Scene } from './run.ts'

/** What a next version brings: a column on the busiest table, a table, an index, and a function that does the same in other words. */
const NEXT = `
alter table mail.message add column next_note text not null default 'none';
create table mail.next_thing (id bigint generated always as identity primary key, message_id uuid not null);
comment on table mail.next_thing is 'Of a version to come.';
create index next_thing_by_message on mail.next_thing (message_id);
alter table mail.stream add column next_setting integer not null default 1;
create or replace function mail.ms_until(at timestamptz) returns integer
language sql volatile parallel safe
set search_path = pg_catalog, mail, pg_temp
as $$
  select case when at = 'infinity' or at = '-infinity' then 60000
    else least(60000, greatest(1, ceil(extract(epoch from at - clock_timestamp()) * 1000)))::integer end
$$;
`

/** Migrates as a process of the next version does at its start; `onGiveWay` is called each time it lets others go first. */
export async function migrateToNext(scene: Scene, url: string, onGiveWay: () => void): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'sluice-next-'))
  scene.after(() => rm(directory, { recursive: true, force: true }))
  await cp(fileURLToPath(new URL('../../migrations/', import.meta.url)), directory, { recursive: true })
  await writeFile(join(directory, '9001_next.sql'), NEXT)
  const log = {
    info: () => undefined,
    warn: (fields: object) => {
      if ('attempt' in fields) onGiveWay()
    },
  }
  await migrate({ url, log, directory: pathToFileURL(`${directory}/`) })
}
