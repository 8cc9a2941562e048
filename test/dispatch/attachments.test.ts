import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import PostalMime from 'postal-mime'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { deadLetterOf, insertMany, readMessage, untilAll, untilStatus } from '../support/messages.ts'
import { jsonOf, STAND_IN_KEY } from '../support/provider-rules.ts'
import { startStandIn } from '../support/provider-stand-ins.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

/** Stores a content, and returns the attachment that names it. */
async function store({ query }: TestDatabase, content: Buffer, filename = 'invoice.pdf') {
  const sha256 = createHash('sha256').update(content).digest()
  await query(
    'insert into mail.attachment (sha256, size, content) values ($1, $2, $3) on conflict do nothing',
    [sha256, content.length, content],
  )
  return {
    filename,
    content_type: 'application/pdf',
    sha256: sha256.toString('hex'),
    size: content.length,
  }
}

/** A database whose mail waits before it is sent, so that it can be given attachments, whatever door it came by. */
async function createPausedDatabase(t: TestContext): Promise<TestDatabase> {
  const database = await createTestDatabase(t)
  await database.query("select mail.pause('transactional')")
  return database
}

/** Gives these messages attachments. */
async function attach(
  { query }: TestDatabase,
  ids: readonly string[],
  attachments: readonly object[],
  to: 'message' | 'prepared' = 'message',
): Promise<void> {
  await query(
    to === 'message'
      ? `update mail.message_content set message = (message::jsonb || jsonb_build_object('attachments', $2::jsonb))::json
         where id = any ($1::uuid[])`
      : `insert into mail.message_prepared (id, attachments) select id, $2::json from unnest($1::uuid[]) id
         on conflict (id) do update set attachments = excluded.attachments`,
    [ids, JSON.stringify(attachments)],
  )
}

async function release({ query }: TestDatabase): Promise<void> {
  await query("select mail.resume('transactional')")
}

async function queue(database: TestDatabase, count: number, changes = {}): Promise<string[]> {
  const ids = await insertMany(database, count, changes)
  await untilAll(database, count, 'queued')
  return ids
}

test('attachments arrive byte for byte, a large one and an inline image among them', async (t) => {
  const database = await createPausedDatabase(t)
  const sink = await startSmtpSink(t)
  await startTestService(database, { SMTP_URL: sink.url })
  const [large, small] = [randomBytes(6_000_000), randomBytes(100)]
  const attachments = [
    await store(database, large, 'große Rechnung.pdf'),
    { ...(await store(database, small, 'logo.png')), content_type: 'image/png', content_id: 'logo' },
  ]
  const [id = ''] = await queue(database, 1)
  await attach(database, [id], attachments)
  await release(database)
  const [mail] = await sink.waitForMails(1)
  const parsed = await PostalMime.parse(mail?.raw ?? '', { attachmentEncoding: 'arraybuffer' })
  assert.deepEqual(
    parsed.attachments.map(({ filename, disposition }) => [filename, disposition]),
    [
      ['logo.png', 'inline'],
      ['große Rechnung.pdf', 'attachment'],
    ],
  )
  assert.ok(Buffer.from(parsed.attachments[0]?.content as ArrayBuffer).equals(small))
  assert.ok(Buffer.from(parsed.attachments[1]?.content as ArrayBuffer).equals(large))
  await untilStatus(database, id, 'sent')
})

test('one attachment of many messages goes to each of them, and what was fetched replaces what was named', async (t) => {
  const database = await createPausedDatabase(t)
  const sink = await startSmtpSink(t)
  await startTestService(database, { SMTP_URL: sink.url })
  const attachment = await store(database, randomBytes(50_000))
  await attach(database, await queue(database, 120), [attachment], 'prepared')
  await release(database)
  const mails = await sink.waitForMails(120)
  assert.ok(mails.every(({ raw }) => raw.length > 66_000))
  await untilAll(database, 120, 'sent')
})

test('a message whose attachment is gone is a dead letter that names it', async (t) => {
  const database = await createPausedDatabase(t)
  const sink = await startSmtpSink(t)
  await startTestService(database, { SMTP_URL: sink.url })
  const attachment = await store(database, randomBytes(10), 'terms.pdf')
  await database.query('delete from mail.attachment')
  const [id = '', other = ''] = await queue(database, 2)
  const unfetched = { filename: 'later.pdf', content_type: 'application/pdf', path: 'https://cdn.test/a' }
  await attach(database, [other], [unfetched])
  await attach(database, [id], [attachment])
  await release(database)
  const letter = await deadLetterOf(database, id)
  assert.deepEqual([letter.stage, letter.code], ['dispatch', 'attachment_missing'])
  assert.match(letter.reason, /"terms\.pdf".*is gone/)
  assert.equal((await readMessage(database, id))?.attempts, 1)
  assert.equal(sink.mails.length, 0)
  assert.match((await deadLetterOf(database, other)).reason, /"later\.pdf".*never fetched/)
})

for (const [provider, requests] of [
  ['resend', 6],
  ['postmark', 1],
] as const) {
  test(`${provider}: mail with attachments goes in a batch only where that is offered`, async (t) => {
    const database = await createPausedDatabase(t)
    const standIn = await startStandIn(t, provider)
    await database.query(
      `insert into mail.provider (name, transport, credentials_env, base_url) values ('api', $1, 'API_KEY', $2)`,
      [provider, standIn.url],
    )
    await database.query("update mail.stream set route = '{api}', slots = 1")
    await startTestService(database, { API_KEY: STAND_IN_KEY })
    const attachment = await store(database, randomBytes(1_000))
    const ids = await queue(database, 8, { from: 'Shop <a@shop.test>' })
    await attach(database, ids.slice(0, 5), [attachment])
    await release(database)
    await untilAll(database, 8, 'sent')
    // Before a provider was heard from, one message goes ahead.
    assert.ok(
      [requests, requests + 1].includes(standIn.requests.length),
      `${standIn.requests.length} requests`,
    )
    const sent = standIn.requests.flatMap((request) => jsonOf(request))
    assert.equal(sent.filter(({ attachments, Attachments }) => attachments ?? Attachments).length, 5)
  })
}
