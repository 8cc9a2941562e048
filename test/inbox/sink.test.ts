import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { type TestContext, test } from 'node:test'
import { sql } from 'kysely'
import { createTransport } from 'nodemailer'
import { type Database, openPool } from '../../src/db/pool.ts'
import { listInbox, readInboxMail } from '../../src/inbox/queries.ts'
import { type InboxSink, startInboxSink } from '../../src/inbox/sink.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase } from '../support/database.ts'

const log = createLog('silent')
const ENVELOPE = { from: 'shop@example.com', to: ['a@example.com', 'b@example.com'] }

test('an accepted mail is in the inbox, byte for byte', async (t) => {
  const { db, sink } = await startSink(t)
  const raw = 'From: Shop <shop@example.com>\r\nSubject: hi\r\n\r\n.dot\r\n..two\r\n\xff\x00\r\n'
  await openTransport(t, sink.url, 1).sendMail({ envelope: ENVELOPE, raw: Buffer.from(raw, 'latin1') })

  const [entry] = (await listInbox(db, { limit: 10 })).entries
  assert.ok(entry)
  assert.equal(entry.subject, 'hi')
  assert.equal(entry.sender, 'Shop <shop@example.com>')
  assert.deepEqual(entry.recipients, ENVELOPE.to)
  assert.equal(entry.mail_from, ENVELOPE.from)
  assert.equal((await readInboxMail(db, entry.id))?.raw.toString('latin1'), raw)
})

test('250 is answered only after the commit: a mail refused at commit is deferred', async (t) => {
  const { db, sink } = await startSink(t)
  await sql`create function mail.refuse() returns trigger language plpgsql as 'begin raise sqlstate ''40001''; end'`.execute(
    db,
  )
  await sql`
    create constraint trigger refuse after insert on mail.inbox
    deferrable initially deferred for each row execute function mail.refuse()
  `.execute(db)
  const client = await openDialogue(t, sink.port)
  assert.match(await client.sendMail('Subject: x\r\n\r\n'), /^451 /)
})

test('mails that arrive together are all stored, in batches', async (t) => {
  const { db, sink } = await startSink(t)
  const subjects = Array.from({ length: 60 }, (_, index) => `mail ${index}`)
  const transport = openTransport(t, sink.url, 10)
  await Promise.all(
    subjects.map((subject) =>
      transport.sendMail({ envelope: ENVELOPE, raw: `Subject: ${subject}\r\n\r\n${subject}\r\n` }),
    ),
  )

  const { entries } = await listInbox(db, { limit: 100 })
  assert.deepEqual(entries.map((entry) => entry.subject).sort(), subjects.sort())
  for (const entry of entries) {
    const mail = await readInboxMail(db, entry.id)
    assert.equal(mail?.raw.toString(), `Subject: ${entry.subject}\r\n\r\n${entry.subject}\r\n`)
  }
})

test('only the newest mails are kept', async (t) => {
  const { db, sink } = await startSink(t, { keep: 3 })
  const client = await openDialogue(t, sink.port)
  for (const subject of ['1', '2', '3', '4', '5']) await client.sendMail(`Subject: ${subject}\r\n\r\n`)
  await sink.stop()
  assert.deepEqual(await subjectsIn(db), ['5', '4', '3'])
})

test('a mail over the size limit is refused for good, and the connection goes on', async (t) => {
  const { db, sink } = await startSink(t, { maxBytes: 1000 })
  const client = await openDialogue(t, sink.port)
  assert.match(await client.command('MAIL FROM:<a@example.com> SIZE=5000'), /^552 /)
  assert.match(await client.sendMail(`Subject: big\r\n\r\n${'x'.repeat(2000)}\r\n`), /^552 /)
  assert.match(await client.sendMail('Subject: small\r\n\r\n'), /^250 /)
  assert.deepEqual(await subjectsIn(db), ['small'])
})

test('the largest mail that Sluice accepts has room: 40 MB of attachments, as base64', async (t) => {
  const { db, sink } = await startSink(t)
  const lines = Buffer.alloc(58_000_000, `${'A'.repeat(76)}\r\n`)
  const raw = Buffer.concat([Buffer.from('Subject: large\r\n\r\n'), lines, Buffer.from('\r\n')])
  await openTransport(t, sink.url, 1).sendMail({ envelope: ENVELOPE, raw })
  assert.deepEqual(await subjectsIn(db), ['large'])
})

test('mail that cannot be stored is deferred, and accepted again once it can', async (t) => {
  const { db, sink } = await startSink(t)
  const client = await openDialogue(t, sink.port)
  await sql`alter table mail.inbox rename to inbox_away`.execute(db)
  assert.match(await client.sendMail('Subject: first\r\n\r\n'), /^451 /)

  await sql`alter table mail.inbox_away rename to inbox`.execute(db)
  assert.match(await client.sendMail('Subject: again\r\n\r\n'), /^250 /)
  assert.deepEqual(await subjectsIn(db), ['again'])
})

test('a database that cannot be reached defers mail', async (t) => {
  const { db, close } = openPool({
    // The discard port: nothing listens there.
    url: 'postgresql://nobody@127.0.0.1:9/none',
    maxConnections: 1,
    role: undefined,
    log,
  })
  const sink = await startInboxSink({ db, log })
  t.after(async () => {
    await sink.stop()
    await close()
  })
  const client = await openDialogue(t, sink.port)
  for (const _ of [1, 2]) {
    assert.match(await client.sendMail('Subject: x\r\n\r\n'), /^451 /)
  }
})

test('a sender that hangs up in the middle of a mail leaves nothing behind', async (t) => {
  const { db, sink } = await startSink(t)
  const client = await openDialogue(t, sink.port)
  await client.beginData()
  client.write('Subject: half\r\n\r\nunfinis')
  await client.hangUp()
  const next = await openDialogue(t, sink.port)
  await next.sendMail('Subject: whole\r\n\r\n')
  assert.deepEqual(await subjectsIn(db), ['whole'])
})

test('any credentials are let in, and no encryption is offered', async (t) => {
  const { sink } = await startSink(t)
  const client = await openDialogue(t, sink.port)
  const offer = await client.command('EHLO again.example.com')
  assert.doesNotMatch(offer, /STARTTLS/)
  const credentials = Buffer.from('\0user\0wrong').toString('base64')
  assert.match(await client.command(`AUTH PLAIN ${credentials}`), /^235 /)
})

test('the null sender is kept as an empty string', async (t) => {
  const { db, sink } = await startSink(t)
  const client = await openDialogue(t, sink.port)
  await client.command('MAIL FROM:<>')
  await client.command('RCPT TO:<a@example.com>')
  await client.command('DATA')
  client.write('\r\n.\r\n')
  assert.match(await client.read(), /^250 /)
  assert.equal((await listInbox(db, { limit: 1 })).entries[0]?.mail_from, '')
})

test('a mail half sent when the sink stops is refused, not swallowed', async (t) => {
  const { db, sink } = await startSink(t)
  const client = await openDialogue(t, sink.port)
  await client.beginData()
  client.write('Subject: late\r\n\r\n')
  const stopped = sink.stop()
  client.write('.\r\n')
  assert.match(await client.read(), /^421 /)
  await stopped
  assert.deepEqual(await subjectsIn(db), [])
})

async function startSink(
  t: TestContext,
  options: { keep?: number; maxBytes?: number } = {},
): Promise<{ db: Database; sink: InboxSink }> {
  const { url, beforeDrop } = await createTestDatabase(t)
  const { db, close } = openPool({ url, maxConnections: 4, role: undefined, log })
  const sink = await startInboxSink({ db, log, ...options })
  beforeDrop(async () => {
    await sink.stop()
    await close()
  })
  return { db, sink }
}

async function subjectsIn(db: Database): Promise<(string | null)[]> {
  return (await listInbox(db, { limit: 100 })).entries.map(({ subject }) => subject)
}

function openTransport(t: TestContext, url: string, maxConnections: number) {
  const transport = createTransport({ url, pool: true, maxConnections })
  t.after(() => transport.close())
  return transport
}

/** An SMTP client that says exactly what it is told; `read` gives the last line of the next reply. */
async function openDialogue(t: TestContext, port: number) {
  const socket = connect(port, '127.0.0.1')
  t.after(() => socket.destroy())
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]()
  const read = async () => {
    const reply: string[] = []
    while (!/^\d{3} /.test(reply.at(-1) ?? '')) {
      const { value, done } = await lines.next()
      if (done) throw new Error(`the server hung up after: ${reply.join(' / ')}`)
      reply.push(value)
    }
    return reply.join('\n')
  }
  const write = (text: string) => socket.write(text)
  const command = async (line: string) => {
    write(`${line}\r\n`)
    return await read()
  }
  const beginData = async () => {
    await command(`MAIL FROM:<${ENVELOPE.from}>`)
    await command(`RCPT TO:<${ENVELOPE.to[0]}>`)
    assert.match(await command('DATA'), /^354 /)
  }
  const sendMail = async (raw: string) => {
    await beginData()
    return await command(`${raw}.`)
  }
  await read()
  await command('EHLO client.example.com')
  return { read, write, command, beginData, sendMail, hangUp: () => hangUp(socket) }
}

async function hangUp(socket: Socket): Promise<void> {
  socket.destroy()
  await once(socket, 'close')
}
