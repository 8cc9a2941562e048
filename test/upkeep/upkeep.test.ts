import assert from 'node:assert/strict'
import { createHash, randomUUIDv7 } from 'node:crypto'
import { test } from 'node:test'
import { keepAttachments, useAttachments } from '../../src/attachment-store.ts'
import { openPool } from '../../src/db/pool.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { createLog } from '../../src/log.ts'
import { ensurePartitions, purge, purgeAttachments } from '../../src/upkeep/queries.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, untilStatus } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

function open(database: TestDatabase) {
  const log = createLog('silent')
  const { db, close } = openPool({ url: database.url, maxConnections: 1, role: undefined, log })
  database.beforeDrop(close)
  return db
}

test('old rates are removed, the rest stays', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    `insert into mail.throughput (bucket_at, process, stage, stream) values
       (now() - interval '4 h', gen_random_uuid(), 'intake', 'old'), (now(), gen_random_uuid(), 'intake', 'new')`,
  )
  await purge(open(database))
  assert.deepEqual(await database.query('select stream from mail.throughput'), [{ stream: 'new' }])
})

test('attachments go when no message uses them and nobody gave them for a day', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    `insert into mail.attachment (sha256, size, content, given_at)
     select sha256(name::bytea), octet_length(name::bytea), name::bytea, now() - age::interval
     from (values ('orphan', '25 h'), ('fresh', '23 h'), ('used', '25 h'), ('again', '25 h')) given (name, age)`,
  )
  await database.query(
    "insert into mail.attachment_use values (sha256('used'), '2020-01-01', 'transactional')",
  )
  await database.query(
    `select mail.attach('again');
     insert into mail.attachment_given (sha256, content, given_at) values (sha256('old'), 'old', now() - interval '26 h')`,
  )
  const db = open(database)
  const left = async () => {
    const rows = await database.query<{ name: string }>(
      "select convert_from(content, 'UTF8') as name from mail.attachment order by 1",
    )
    return rows.map(({ name }) => name)
  }
  assert.equal(await purgeAttachments(db), false)
  assert.deepEqual(await left(), ['fresh', 'used'])
  const given = await database.query(
    "select convert_from(content, 'UTF8') as name from mail.attachment_given",
  )
  assert.deepEqual(given, [{ name: 'again' }])
  await database.query("delete from mail.attachment_use where day < '2021-01-01'")
  await purgeAttachments(db)
  assert.deepEqual(await left(), ['fresh'])
})

test('an attachment that a message is about to use is not taken from under it', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  const { sha256 } = content('old')
  await database.query(
    "insert into mail.attachment (sha256, size, content, given_at) values (sha256('old'), 3, 'old', now() - interval '2 days')",
  )
  const noting = Promise.withResolvers<void>()
  const isNoted = Promise.withResolvers<void>()
  const mover = openPool({ url: database.url, maxConnections: 1, role: undefined, log: createLog('silent') })
  database.beforeDrop(mover.close)
  const used = inTransaction(mover.db, async (trx) => {
    await keepAttachments(trx, [content('old')], { isUsedAtOnce: true })
    await useAttachments(trx, [{ messageId: randomUUIDv7(), stream: 'transactional', sha256 }])
    isNoted.resolve()
    await noting.promise
  })
  await isNoted.promise
  assert.equal(await purgeAttachments(db), false)
  noting.resolve()
  await used
  await purgeAttachments(db)
  assert.equal((await database.query('select from mail.attachment')).length, 1)
})

function content(text: string) {
  return { sha256: createHash('sha256').update(text).digest('hex'), bytes: Buffer.from(text) }
}

test('partitions are made ahead, and mail that came before its partition is moved into it', async (t) => {
  const database = await createTestDatabase(t)
  const db = open(database)
  // The template may be of yesterday: then there is one more day to make.
  await ensurePartitions(db)
  assert.equal(await ensurePartitions(db), 0)
  const tomorrow = "to_char((now() at time zone 'utc')::date + 1, '_YYYYMMDD')"
  const [{ suffix } = { suffix: '' }] = await database.query<{ suffix: string }>(
    `select ${tomorrow} as suffix`,
  )
  await database.query(`drop table mail.message${suffix}`)
  await database.query(
    `insert into mail.message (id, seq, accepted_at, priority, status, stream, source)
     values (mail.uuid7_floor(((now() at time zone 'utc')::date + 1)::timestamp at time zone 'utc'), 1, now(), 5, 'accepted', 'x', 'x')`,
  )
  assert.equal(await ensurePartitions(db), 1)
  const rows = await database.query<{ place: string }>(
    'select tableoid::regclass::text as place from mail.message',
  )
  assert.deepEqual(rows, [{ place: `mail.message${suffix}` }])
})

test('what passes through each stage shows in mail.queue as a rate', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const ids = await Promise.all(Array.from({ length: 12 }, () => post(service)))
  for (const id of ids) await untilStatus(database, id, 'sent')
  // Twelve in a minute.
  const expected = [
    { stage: 'intake', in_per_s: '0.2', out_per_s: '0.2' },
    { stage: 'processing', in_per_s: '0.2', out_per_s: '0.2' },
    { stage: 'dispatch', in_per_s: '0.2', out_per_s: '0.2' },
  ]
  await eventually('all stages were counted', async () => {
    const seen = await database.query('select stage, in_per_s, out_per_s from mail.queue where out_per_s > 0')
    return JSON.stringify(seen) === JSON.stringify(expected)
  })
})
