import assert from 'node:assert/strict'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { before, describe, test } from 'node:test'
import { Resend } from 'resend'
import type { Attachment } from '../src/message/message.ts'
import { createTestDatabase, type TestDatabase } from './support/database.ts'
import { deadLetterOf, post, untilStatus } from './support/messages.ts'
import { orderMail, startTestService, TEST_KEY, type TestService } from './support/service.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  // No worker: messages stay as the mover stored them.
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
})

const sha256Of = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

/** Bytes that no other test has. */
function file(size = 100) {
  const bytes = randomBytes(size)
  return { bytes, sha256: sha256Of(bytes), content: bytes.toString('base64') }
}

async function insert(message: object, key: string | null = null): Promise<string> {
  const [row] = await database.query<{ id: string }>(
    'insert into mail.outbox (message, idempotency_key) values ($1, $2) returning id',
    [JSON.stringify(message), key],
  )
  return row?.id ?? ''
}

async function attach(bytes: Buffer): Promise<string> {
  const [row] = await database.query<{ sha256: string }>('select mail.attach($1) as sha256', [bytes])
  return row?.sha256 ?? ''
}

async function storedMessage(id: string): Promise<{ attachments?: Attachment[] }> {
  await untilStatus(database, id, 'accepted')
  const [row] = await database.query<{ message: { attachments?: Attachment[] } }>(
    'select message from mail.message_content where id = $1',
    [id],
  )
  return row?.message ?? {}
}

async function storedBytes(sha256: string): Promise<Buffer[]> {
  const rows = await database.query<{ content: Buffer; size: number }>(
    "select content, size from mail.attachment where sha256 = decode($1, 'hex')",
    [sha256],
  )
  for (const { content, size } of rows) assert.equal(content.length, size)
  return rows.map(({ content }) => content)
}

/** On how many days it is used; the day is that of the messages' ids. */
async function uses(sha256: string): Promise<number> {
  const rows = await database.query<{ is_today: boolean }>(
    `select day = (now() at time zone 'utc')::date as is_today
     from mail.attachment_use where sha256 = decode($1, 'hex')`,
    [sha256],
  )
  assert.ok(rows.every(({ is_today }) => is_today))
  return rows.length
}

describe('at the REST door', () => {
  test('the bytes are stored, and the message names them by their hash', async () => {
    const { bytes, sha256, content } = file()
    const id = await post(service, { attachments: [{ filename: 'a.pdf', content, content_id: 'logo' }] })
    assert.deepEqual((await storedMessage(id)).attachments, [
      { filename: 'a.pdf', content_type: 'application/pdf', content_id: 'logo', sha256, size: 100 },
    ])
    assert.deepEqual(await storedBytes(sha256), [bytes])
    assert.equal(await uses(sha256), 1)
  })

  test('the row in the intake holds no bytes, whoever moves it', async () => {
    const { sha256, content } = file(200_000)
    // A door without any mover behind it.
    await database.query(
      'create function mail.keep() returns trigger language plpgsql as $$ begin insert into mail.seen values (new.message); return new; end $$; create table mail.seen (message json); grant insert on mail.seen to mail_service; create trigger keep before insert on mail.intake for each row execute function mail.keep()',
    )
    const body = orderMail({ attachments: [{ filename: 'a.pdf', content }] })
    const headers = { 'Sluice-Durability': 'buffered' }
    assert.equal((await service.request('/emails', { body, headers })).status, 200)
    await database.query('drop trigger keep on mail.intake')
    const [row] = await database.query<{ message: { attachments: object[] }; chars: number }>(
      'select message, length(message::text) as chars from mail.seen',
    )
    assert.deepEqual(row?.message.attachments, [{ filename: 'a.pdf', sha256 }])
    assert.ok((row?.chars ?? 0) < 1_000)
  })

  test('GET /emails/:id shows what is attached, and no bytes', async () => {
    const { content, sha256 } = file()
    const id = await post(service, { attachments: [{ filename: 'a.png', content, content_id: 'logo' }] })
    await untilStatus(database, id, 'accepted')
    const text = await (await service.request(`/emails/${id}`)).text()
    assert.deepEqual(JSON.parse(text).attachments, [
      { filename: 'a.png', content_type: 'image/png', content_id: 'logo', size: 100 },
    ])
    assert.ok(!text.includes(content.slice(0, 20)) && !text.includes(sha256))
    const plain = await post(service)
    await untilStatus(database, plain, 'accepted')
    const shown = (await (await service.request(`/emails/${plain}`)).json()) as { attachments: unknown }
    assert.deepEqual(shown.attachments, [])
  })

  test('Resend’s own SDK sends a Buffer', async () => {
    const { bytes, sha256 } = file()
    const resend = new Resend(TEST_KEY, { baseUrl: service.url ?? '' })
    const { data, error } = await resend.emails.send({
      from: 'Shop <shop@example.com>',
      to: 'ann@example.net',
      subject: 'Your invoice',
      text: 'Attached.',
      attachments: [
        { filename: 'a.pdf', content: bytes, contentId: 'invoice', contentType: 'application/pdf' },
      ],
    })
    assert.equal(error, null)
    assert.deepEqual((await storedMessage(data?.id ?? '')).attachments, [
      { filename: 'a.pdf', content_type: 'application/pdf', content_id: 'invoice', sha256, size: 100 },
    ])
  })

  test('a batch and a bulk name them too: one copy for all recipients', async () => {
    const { content, sha256 } = file(50_000)
    const attachments = [{ filename: 'a.pdf', content }]
    const { to: _, ...message } = orderMail({ attachments, stream: 'marketing' })
    const recipients = Array.from({ length: 300 }, (_, n) => ({ to: `user${n}@example.net` }))
    const answers = [
      await service.request('/emails/batch', { body: [orderMail({ attachments }), orderMail()] }),
      await service.request('/emails/bulk', { body: { message, recipients } }),
    ]
    const ids: string[] = []
    for (const answer of answers) {
      const { data } = (await answer.json()) as { data: { id: string }[] }
      assert.equal(answer.status, 200)
      ids.push(...data.map(({ id }) => id))
    }
    assert.equal(ids.length, 302)
    for (const id of [ids[0], ids[2], ids[301]]) {
      assert.deepEqual((await storedMessage(id ?? '')).attachments, [
        { filename: 'a.pdf', content_type: 'application/pdf', sha256, size: 50_000 },
      ])
    }
    assert.equal((await storedMessage(ids[1] ?? '')).attachments, undefined)
    assert.equal((await storedBytes(sha256)).length, 1)
    const named = { ...message, attachments: [{ filename: 'a.pdf', sha256 }] }
    for (const [path, body] of [
      ['/emails/batch', [orderMail({ attachments: named.attachments })]],
      ['/emails/bulk', { message: named, recipients }],
    ] as const) {
      const refused = await service.request(path, { body })
      const error = (await refused.json()) as { name: string; message: string }
      assert.deepEqual([refused.status, error.name], [422, 'invalid_attachment'])
      assert.match(error.message, /attachments\[0\]\.sha256/)
    }
  })

  test('a wrong one is 422 invalid_attachment, and nothing of the message is stored', async () => {
    const { content, sha256 } = file()
    const attachments = [
      { filename: 'a.pdf', content },
      { filename: 'b.pdf', content: '!' },
    ]
    const response = await service.request('/emails', { body: orderMail({ attachments }) })
    const error = (await response.json()) as { name: string; message: string }
    assert.deepEqual([response.status, error.name], [422, 'invalid_attachment'])
    assert.match(error.message, /`attachments\[1\]\.content`/)
    assert.deepEqual(await storedBytes(sha256), [])
  })

  test('40 MB go through, and are held neither in the message nor in the row', async () => {
    const { bytes, content } = file(40 * 1_024 * 1_024)
    const id = await post(service, { attachments: [{ filename: 'large.bin', content }] })
    const [attachment] = (await storedMessage(id)).attachments ?? []
    assert.equal(attachment && 'size' in attachment && attachment.size, bytes.length)
    const [row] = await database.query<{ chars: number }>(
      'select length(message::text) as chars from mail.message_content where id = $1',
      [id],
    )
    assert.ok((row?.chars ?? 0) < 1_000)
  })

  test('bytes that somebody else hands in at the same moment are stored once', async () => {
    const { content, sha256 } = file(50_000)
    const attachments = [
      { filename: 'a.pdf', content },
      { filename: 'copy.pdf', content },
    ]
    const ids = await Promise.all(Array.from({ length: 20 }, () => post(service, { attachments })))
    for (const id of ids) assert.equal((await storedMessage(id)).attachments?.length, 2)
    assert.equal((await storedBytes(sha256)).length, 1)
    assert.equal(await uses(sha256), 1)
  })
})

describe('a row of SQL', () => {
  test('may carry the bytes inside, and ends as if it had come over REST', async () => {
    const { bytes, sha256, content } = file()
    const attachments = [{ filename: 'a.pdf', content: content.replace(/(.{20})/g, '$1\n') }]
    const message = await storedMessage(await insert(orderMail({ attachments })))
    assert.deepEqual(message.attachments, [
      { filename: 'a.pdf', content_type: 'application/pdf', sha256, size: 100 },
    ])
    assert.deepEqual(await storedBytes(sha256), [bytes])
    assert.equal(await uses(sha256), 1)
  })

  test('may name what mail.attach stored, so that many share one copy', async () => {
    const { bytes, sha256 } = file()
    assert.deepEqual([await attach(bytes), await attach(bytes)], [sha256, sha256])
    assert.equal(await uses(sha256), 0)
    const message = orderMail({ attachments: [{ filename: 'a.pdf', sha256 }] })
    const rows = await database.query<{ id: string }>(
      'insert into mail.outbox (message) select $1::json from generate_series(1, 300) returning id',
      [JSON.stringify(message)],
    )
    for (const { id } of [rows[0], rows[299]].flatMap((row) => row ?? [])) {
      const [attachment] = (await storedMessage(id)).attachments ?? []
      assert.deepEqual(attachment, { filename: 'a.pdf', content_type: 'application/pdf', sha256, size: 100 })
    }
    assert.deepEqual([(await storedBytes(sha256)).length, await uses(sha256)], [1, 1])
  })

  test('in the transaction that attaches finds its bytes, as both commit together', async () => {
    const { bytes, sha256 } = file()
    const [row] = await database.query<{ id: string }>(
      `insert into mail.outbox (message)
       select json_build_object('from', 'shop@example.com', 'to', 'ann@example.net', 'subject', 's', 'text', 't',
         'attachments', json_build_array(json_build_object('filename', 'a.pdf', 'sha256', mail.attach($1))))
       returning id`,
      [bytes],
    )
    assert.equal((await storedMessage(row?.id ?? '')).attachments?.length, 1)
    assert.equal(await uses(sha256), 1)
  })

  test('with what is wrong is a dead letter that says so, and the rows around it go on', async () => {
    const large = await Promise.all([
      attach(Buffer.alloc(30 * 1_024 * 1_024, 1)),
      attach(Buffer.alloc(11 * 1_024 * 1_024, 2)),
    ])
    const { sha256: unknown } = file()
    const { content } = file()
    const wrong: readonly (readonly [attachments: object[], reason: RegExp])[] = [
      [[{ filename: 'a.pdf', content: 'not base64!' }], /`attachments\[0\]\.content`.*base64/],
      [
        [
          { filename: 'a.pdf', content },
          { filename: 'b.pdf', sha256: unknown },
        ],
        /`attachments\[1\]\.sha256`: no attachment is stored.*mail\.attach/,
      ],
      [large.map((sha256) => ({ filename: 'a.bin', sha256 })), /more than 41943040 bytes together/],
      [[{ filename: 'a.pdf', sha256: 'ABC' }], /64 characters/],
      [[{ path: 'https://files.example.com/a.pdf' }], /SLUICE_ATTACHMENT_HOSTS/],
    ]
    const good = orderMail({ attachments: [{ filename: 'a.pdf', content }] })
    const rows = wrong.flatMap(([attachments]) => [orderMail({ attachments }), good])
    const ids = await database.query<{ id: string }>(
      'insert into mail.outbox (message) select value from json_array_elements($1::json) returning id',
      [JSON.stringify(rows)],
    )
    for (const [index, [attachments, reason]] of wrong.entries()) {
      const letter = await deadLetterOf(database, ids[index * 2]?.id ?? '')
      assert.deepEqual(
        [letter.stage, letter.code],
        ['intake', 'invalid_attachment'],
        JSON.stringify(attachments),
      )
      assert.match(letter.reason, reason)
      assert.equal((await storedMessage(ids[index * 2 + 1]?.id ?? '')).attachments?.length, 1)
    }
  })

  test('mail.attach refuses what no message could carry', async () => {
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(40 * 1_024 * 1_024 + 1), null]) {
      await assert.rejects(database.query('select mail.attach($1)', [bytes]), { code: '22023' })
    }
  })
})

describe('under one idempotency key', () => {
  const fingerprints = async (...messages: unknown[]) => {
    const rows = await database.query<{ digest: string }>(
      "select encode(mail.fingerprint(given), 'hex') as digest from unnest($1::text[]) with ordinality as list (given, place) order by place",
      [messages.map((message) => (typeof message === 'string' ? message : JSON.stringify(message)))],
    )
    return rows.map(({ digest }) => digest)
  }

  test('bytes inside and their hash are the same, over REST and SQL in either order', async () => {
    for (const isRestFirst of [true, false]) {
      const { content } = file()
      const message = orderMail({ attachments: [{ filename: 'a.pdf', content, content_id: 'x' }] })
      const key = randomUUID()
      const overRest = async () => {
        const response = await service.request('/emails', {
          body: message,
          headers: { 'Idempotency-Key': key },
        })
        const { id } = (await response.json()) as { id: string }
        return { id, isReplay: response.headers.get('Idempotent-Replayed') === 'true' }
      }
      if (isRestFirst) {
        const first = await overRest()
        assert.deepEqual(await overRest(), { id: first.id, isReplay: true })
        const [again] = await database.query('select mail.send($1, $2) as id', [JSON.stringify(message), key])
        assert.deepEqual(again, { id: first.id })
      } else {
        const first = await insert(message, key)
        await storedMessage(first)
        assert.deepEqual(await overRest(), { id: first, isReplay: true })
      }
    }
  })

  test('other bytes, another name or another order are another message', async () => {
    const [one, two] = [file(), file()]
    const key = randomUUID()
    const send = (attachments: object[]) =>
      service.request('/emails', { body: orderMail({ attachments }), headers: { 'Idempotency-Key': key } })
    const a = { filename: 'a.pdf', content: one.content }
    const b = { filename: 'b.pdf', content: two.content }
    assert.equal((await send([a, b])).status, 200)
    const others = [[b, a], [a], [], [{ ...a, content: two.content }, b], [{ ...a, filename: 'c.pdf' }, b]]
    for (const other of others) assert.equal((await send(other)).status, 409)
    assert.equal((await send([{ ...a, content: `${one.content}\n` }, b])).status, 200)
  })

  test('the fingerprint never throws, whatever attachments are', async () => {
    const strange = [null, 7, 'x', {}, [], [null, 7, 'x', [], {}], [{ content: 7 }], [{ content: null }]]
    const broken = [
      [{ content: '!' }],
      [{ content: 'a-_b' }],
      [{ content: 'aGVsbG8' }],
      [{ content: '\ud83d' }],
    ]
    const given = [...strange, ...broken].map((attachments) => ({ attachments }))
    const digests = await fingerprints(...given, '["attachments"]', '"attachments"', '7', 'null')
    assert.equal(new Set(digests).size, given.length + 4)
    const [spaced, plain] = await fingerprints('{"attachments": [] , "a":1}', { a: 1, attachments: [] })
    assert.equal(spaced, plain)
  })
})
