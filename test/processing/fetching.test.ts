import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import PostalMime from 'postal-mime'
import type { Attachment } from '../../src/message/message.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { deadLetterOf, eventTypesOf, post, readMessage, untilStatus } from '../support/messages.ts'
import { spawnService, startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'

type Answer = (response: ServerResponse) => void

/** A host of files on loopback, listed as an operator would list one of an intranet. */
async function startFileHost(t: TestContext) {
  const answers = new Map<string, Answer>()
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url ?? '')
    const answer = answers.get(new URL(request.url ?? '', 'http://x').pathname)
    if (answer === undefined) response.writeHead(404).end()
    else answer(response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    environment: { SLUICE_ATTACHMENT_HOSTS: `http://127.0.0.1:${port}, files.example.com` },
    asked,
    answer: (path: string, with_: Answer) => answers.set(path, with_),
  }
}

const sha256Of = (text: string) => createHash('sha256').update(text).digest('hex')

async function preparedAttachments({ query }: TestDatabase, id: string): Promise<Attachment[] | null> {
  const [row] = await query<{ attachments: Attachment[] | null }>(
    'select attachments from mail.message_prepared where id = $1',
    [id],
  )
  return row?.attachments ?? null
}

/** What the delayed job of a message says, once there is one. */
function untilPutOff({ query }: TestDatabase, id: string) {
  return eventually(`message ${id} is to be fetched again`, async () => {
    const [job] = await query<{ job: string; fetches: number; delay_s: number }>(
      `select id as job, (data ->> 'fetches')::integer as fetches, extract(epoch from start_after - created_on)::float as delay_s
       from pgboss.job where data -> 'ids' ? $1 and data ? 'because' and state = 'created'`,
      [id],
    )
    return job
  })
}

/** As if its time had come. */
async function hurry({ query }: TestDatabase, job: string): Promise<void> {
  await query('update pgboss.job set start_after = now() where id = $1', [job])
}

test('what a message names by URL is fetched, stored once, and listed in its place', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const host = await startFileHost(t)
  host.answer('/a.pdf', (response) => response.end('first'))
  host.answer('/b.png', (response) => response.end('second'))
  const service = await startTestService(database, { SMTP_URL: sink.url, ...host.environment })
  const content = Buffer.from('inline').toString('base64')
  const attachments = [
    { path: `${host.url}/a.pdf?sig=1`, filename: 'invoice.pdf' },
    { filename: 'c.txt', content },
    { path: `${host.url}/b.png`, content_id: 'logo' },
  ]
  const ids = await Promise.all(Array.from({ length: 5 }, () => post(service, { attachments })))
  const plain = await post(service)
  for (const id of [...ids, plain]) await untilStatus(database, id, 'sent')
  for (const id of ids) {
    assert.deepEqual(await preparedAttachments(database, id), [
      { filename: 'invoice.pdf', content_type: 'application/pdf', sha256: sha256Of('first'), size: 5 },
      { filename: 'c.txt', content_type: 'text/plain', sha256: sha256Of('inline'), size: 6 },
      {
        filename: 'b.png',
        content_type: 'image/png',
        content_id: 'logo',
        sha256: sha256Of('second'),
        size: 6,
      },
    ])
  }
  assert.equal(await preparedAttachments(database, plain), null)
  const arrived = sink.mails.find((mail) => sluiceIdOf(mail) === ids[0])
  const parsed = await PostalMime.parse(arrived?.raw ?? '', { attachmentEncoding: 'utf8' })
  assert.deepEqual(parsed.attachments.map(({ filename, content }) => [filename, content]).toSorted(), [
    ['b.png', 'second'],
    ['c.txt', 'inline'],
    ['invoice.pdf', 'first'],
  ])
  const used = await database.query(
    'select a.size from mail.attachment a join mail.attachment_use u using (sha256) order by a.size',
  )
  assert.deepEqual(used, [{ size: 5 }, { size: 6 }, { size: 6 }])
  const shown = (await (await service.request(`/emails/${ids[0]}`)).json()) as { attachments: unknown[] }
  assert.deepEqual(shown.attachments[2], {
    filename: 'b.png',
    content_type: 'image/png',
    content_id: 'logo',
    size: 6,
  })
  assert.deepEqual(await eventTypesOf(database, ids[0] ?? ''), ['accepted', 'queued', 'sent'])
  // One newsletter, one picture: asked for once, not once for each mail.
  assert.deepEqual(host.asked.toSorted(), ['/a.pdf?sig=1', '/b.png'])
})

test('a host that hangs holds up neither messages without attachments nor those of other hosts', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const host = await startFileHost(t)
  const held: ServerResponse[] = []
  host.answer('/slow.pdf', (response) => held.push(response))
  host.answer('/quick.pdf', (response) => response.end('quick'))
  const service = await startTestService(database, { SMTP_URL: sink.url, ...host.environment })
  const slow = await post(service, { attachments: [{ path: `${host.url}/slow.pdf` }] })
  await eventually('the slow file is asked for', async () => held.length > 0)
  const others = [
    await post(service),
    await post(service, { attachments: [{ path: `${host.url}/quick.pdf` }] }),
  ]
  for (const id of others) await untilStatus(database, id, 'sent')
  assert.equal((await readMessage(database, slow))?.status, 'accepted')
  for (const response of held) response.end('at last')
  await untilStatus(database, slow, 'sent')
})

test('a fault that may pass is tried again later and later, and is a dead letter after the fifth time', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const host = await startFileHost(t)
  host.answer('/a.pdf', (response) => response.writeHead(503).end())
  const service = await startTestService(database, { SMTP_URL: sink.url, ...host.environment })
  const id = await post(service, { attachments: [{ path: `${host.url}/a.pdf?secret=7` }] })
  for (const [index, least] of [10, 40, 90, 160].entries()) {
    const { job, fetches, delay_s: delay } = await untilPutOff(database, id)
    assert.equal(fetches, index + 1)
    assert.ok(delay >= least - 1 && delay <= least * 1.2 + 1, `${delay} s`)
    const [{ why } = { why: '' }] = await database.query<{ why: string }>('select mail.why($1) as why', [id])
    assert.match(
      why,
      /^Waiting for an attachment: http:.*\/a\.pdf could not be fetched: it answered with status 503\. It is fetched again at/,
    )
    await hurry(database, job)
    await eventually('the job is taken', async () => {
      return (await database.query('select from pgboss.job where id = $1', [job])).length === 0
    })
  }
  const letter = await deadLetterOf(database, id)
  assert.deepEqual([letter.stage, letter.code], ['processing', 'attachment_unavailable'])
  assert.match(
    letter.reason,
    /\/a\.pdf could not be fetched: it answered with status 503, in each of 5 attempts/,
  )
  assert.doesNotMatch(letter.reason, /secret/)
  assert.equal(host.asked.length, 5)

  host.answer('/a.pdf', (response) => response.end('back'))
  await database.query('select mail.dlq_retry($1::uuid)', [id])
  await untilStatus(database, id, 'sent')
})

test('a fault that will not pass is a dead letter at once, with the reason and without the query', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const host = await startFileHost(t)
  host.answer('/moved.pdf', (response) =>
    response.writeHead(302, { Location: 'http://169.254.169.254/' }).end(),
  )
  host.answer('/packed.pdf', (response) => response.writeHead(200, { 'Content-Encoding': 'gzip' }).end('x'))
  host.answer('/empty.pdf', (response) => response.end())
  host.answer('/large.pdf', (response) => {
    response.writeHead(200, { 'Content-Length': 41_943_041 }).flushHeaders()
  })
  const service = await startTestService(database, { SMTP_URL: sink.url, ...host.environment })
  const expected: readonly (readonly [path: string, reason: RegExp])[] = [
    ['/missing.pdf', /status 404/],
    ['/moved.pdf', /redirect \(302\)/],
    ['/packed.pdf', /encoding gzip/],
    ['/empty.pdf', /it is empty/],
    ['/large.pdf', /larger than the 41943040 bytes/],
  ]
  for (const [path, reason] of expected) {
    const id = await post(service, { attachments: [{ path: `${host.url}${path}?token=secret` }] })
    const letter = await deadLetterOf(database, id)
    assert.deepEqual([letter.stage, letter.code], ['processing', 'attachment_refused'], path)
    assert.match(letter.reason, reason)
    assert.ok(
      letter.reason.includes(`${host.url}${path} `) && !letter.reason.includes('secret'),
      letter.reason,
    )
    assert.equal((await readMessage(database, id))?.status, 'dead')
  }
})

test('a host that this worker does not list is refused, though the door let it through', async (t) => {
  const database = await createTestDatabase(t)
  const host = await startFileHost(t)
  const api = await startTestService(database, { SLUICE_ROLES: 'api', ...host.environment })
  const id = await post(api, { attachments: [{ path: `${host.url}/a.pdf` }] })
  await startTestService(database, { SLUICE_ROLES: 'worker' })
  const letter = await deadLetterOf(database, id)
  assert.equal(letter.code, 'attachment_refused')
  assert.match(letter.reason, /SLUICE_ATTACHMENT_HOSTS/)
  assert.deepEqual(host.asked, [])
})

test('a worker that stops while it fetches gives the message back, and the next one fetches it', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const host = await startFileHost(t)
  host.answer('/a.pdf', () => undefined)
  const service = await startTestService(database, { SMTP_URL: sink.url, ...host.environment })
  const id = await post(service, { attachments: [{ path: `${host.url}/a.pdf` }] })
  await eventually('the file is asked for', async () => host.asked.length > 0)
  assert.equal(await service.stop(), true)
  assert.deepEqual(await database.query('select from mail.claim'), [])
  host.answer('/a.pdf', (response) => response.end('hello'))
  await startTestService(database, { SMTP_URL: sink.url, ...host.environment })
  await untilStatus(database, id, 'sent')
})

test('a worker that dies while it fetches leaves the message to another one', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const host = await startFileHost(t)
  host.answer('/a.pdf', () => undefined)
  const environment = { SMTP_URL: sink.url, ...host.environment }
  const first = await spawnService(t, database.url, environment)
  const id = await post(first, { attachments: [{ path: `${host.url}/a.pdf` }] })
  await eventually('the file is asked for', async () => host.asked.length > 0)
  first.process.kill('SIGKILL')
  await first.ended
  host.answer('/a.pdf', (response) => response.end('hello'))
  await startTestService(database, environment)
  await untilStatus(database, id, 'sent')
  assert.equal(sink.mails.length, 1)
})
