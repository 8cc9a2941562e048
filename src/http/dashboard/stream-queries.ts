import type { Selectable } from 'kysely'
import type { Database } from '../../db/pool.ts'
import type { DB } from '../../db/types.ts'

export type StreamRow = Selectable<DB['mail.stream']>

export type SendWindow = Pick<Selectable<DB['mail.send_window']>, 'days' | 'opens' | 'closes' | 'time_zone'>

export async function readSendWindows(db: Database, stream: string): Promise<SendWindow[]> {
  return db
    .selectFrom('mail.send_window')
    .select(['days', 'opens', 'closes', 'time_zone'])
    .where('stream', '=', stream)
    .orderBy('id')
    .execute()
}

export async function readStream(db: Database, name: string): Promise<StreamRow | undefined> {
  return db.selectFrom('mail.stream').selectAll().where('name', '=', name).executeTakeFirst()
}
