import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { sql } from 'kysely'
import { type Database, openPool } from '../../src/db/pool.ts'
import {
  clearInbox,
  countInbox,
  insertInboxMails,
  listInbox,
  type NewInboxMail,
} from '../../src/inbox/queries.ts'
import { InboxWriter } from '../../src/inbox/writer.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase } from '../support/database.ts'

const log = createLog('silent')

test('mails that wait while an insert runs go in one statement, in order', async (t) => {
  const { db, writer } = await openWriter(t)
  await Promise.all(mails(100).map((mail) => writer.store(mail)))

  const { entries } = await listInbox(db, { limit: 200 })
  assert.deepEqual(
    entries.map(({ subject }) => subject),
    mails(100)
      .map(({ subject }) => subject)
      .reverse(),
  )
  assert.equal(await countStatements(db), 2)
})

test('a batch of large mails is split', async (t) => {
  const { db, writer } = await openWriter(t)
  const raw = Buffer.alloc(7 * 1024 * 1024)
  await Promise.all(mails(6).map((mail) => writer.store({ ...mail, raw })))
  // One goes at once; of the other five, two fit into a statement.
  assert.equal(await countStatements(db), 4)
})

test('after a failed insert the next one is tried afresh', async (t) => {
  const { db, writer } = await openWriter(t)
  await sql`alter table mail.inbox rename to inbox_away`.execute(db)
  const failures = await Promise.allSettled(mails(3).map((mail) => writer.store(mail)))
  assert.deepEqual(
    failures.map(({ status }) => status),
    ['rejected', 'rejected', 'rejected'],
  )
  await sql`alter table mail.inbox_away rename to inbox`.execute(db)
  await Promise.all(mails(3).map((mail) => writer.store(mail)))
  assert.equal(await countInbox(db), 3)
})

test('a stopped writer leaves no more than it may keep', async (t) => {
  const { db, writer } = await openWriter(t, 5)
  for (const mail of mails(12)) await writer.store(mail)
  await writer.stop()
  assert.equal(await countInbox(db), 5)
})

test('pages follow each other without a gap or an overlap', async (t) => {
  const { db } = await openWriter(t)
  await insertInboxMails(db, mails(7))
  const seen: (string | null)[] = []
  let beforeId: string | undefined
  do {
    const page = await listInbox(db, { limit: 3, beforeId })
    seen.push(...page.entries.map(({ subject }) => subject))
    beforeId = page.olderThanId
  } while (beforeId !== undefined)
  assert.deepEqual(
    seen,
    ['7', '6', '5', '4', '3', '2', '1'].map((number) => `mail ${number}`),
  )
})

test('a search finds subjects, recipients and Sluice ids, and takes % as it is written', async (t) => {
  const { db } = await openWriter(t)
  const messageId = '01890a5d-ac96-774b-bcce-b302099a8057'
  const [base] = mails(1)
  assert.ok(base)
  await insertInboxMails(db, [
    { ...base, subject: '50% off', messageId },
    { ...base, subject: 'Grüße', recipients: ['x@example.com', 'Second@example.org'] },
  ])
  const found = async (search: string) =>
    (await listInbox(db, { limit: 10, search })).entries.map(({ subject }) => subject)
  assert.deepEqual(await found('%'), ['50% off'])
  assert.deepEqual(await found('gRüßE'), ['Grüße'])
  assert.deepEqual(await found('second@'), ['Grüße'])
  assert.deepEqual(await found(messageId.toUpperCase()), ['50% off'])
  assert.deepEqual(await found("'"), [])
})

test('clearing empties the inbox', async (t) => {
  const { db } = await openWriter(t)
  await insertInboxMails(db, mails(3))
  await clearInbox(db)
  assert.equal(await countInbox(db), 0)
})

async function openWriter(t: TestContext, keep = 1000): Promise<{ db: Database; writer: InboxWriter }> {
  const { url, beforeDrop } = await createTestDatabase(t)
  const { db, close } = openPool({ url, maxConnections: 2, role: undefined, log })
  const writer = new InboxWriter({ db, log, keep })
  beforeDrop(async () => {
    await writer.stop()
    await close()
  })
  return { db, writer }
}

function mails(count: number): NewInboxMail[] {
  return Array.from({ length: count }, (_, index) => ({
    mailFrom: 'shop@example.com',
    recipients: ['a@example.com', `b${index}@example.com`],
    subject: `mail ${index + 1}`,
    sender: null,
    messageId: null,
    raw: Buffer.from(`Subject: mail ${index + 1}\r\n\r\n`),
  }))
}

/** Rows of one statement carry the same transaction id. */
async function countStatements(db: Database): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(distinct xmin::text)::int as count from mail.inbox
  `.execute(db)
  return rows[0]?.count ?? 0
}
