import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { domainToASCII } from 'node:url'
import PostalMime, { decodeWords, type Email } from 'postal-mime'
import type { Message } from '../../src/message/message.ts'
import { parseMessage } from '../../src/message/message-schema.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { HOSTILE_STRINGS } from '../support/hostile-strings.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { type SmtpSink, type SunkMail, startSmtpSink } from '../support/smtp-sink.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'

type Json = Readonly<Record<string, unknown>>

/** A mail whose every field is known, so that one more header or recipient is seen. */
const PLAIN = {
  from: 'shop@example.com',
  to: ['ann@example.net'],
  subject: 'Your order',
  html: '<p>Thank you.</p>',
  text: 'Thank you.',
}
const quoted = (text: string) => `"${text.replace(/["\\]/g, '\\$&')}"`

/** Every field that holds text: the message with the text there, and what its refusal has to name. */
const FIELDS: Readonly<Record<string, (text: string) => Json>> = {
  from: (text) => ({ from: text }),
  'from with this name': (text) => ({ from: `${quoted(text)} <shop@example.com>` }),
  to: (text) => ({ to: [text] }),
  'to with this name': (text) => ({ to: [`${quoted(text)} <ann@example.net>`] }),
  'to before the @': (text) => ({ to: [`${text}@example.net`] }),
  'to behind the @': (text) => ({ to: `ann@${text}` }),
  cc: (text) => ({ cc: text }),
  'cc with this name': (text) => ({ cc: [`${quoted(text)} <carl@example.net>`] }),
  bcc: (text) => ({ bcc: [text] }),
  'bcc with this name': (text) => ({ bcc: `${quoted(text)} <bob@example.net>` }),
  reply_to: (text) => ({ reply_to: text }),
  'reply_to with this name': (text) => ({ reply_to: [`${quoted(text)} <help@example.com>`] }),
  subject: (text) => ({ subject: text }),
  html: (text) => ({ html: `<p>${text}</p>` }),
  text: (text) => ({ text: `${text}.` }),
  'headers by this name': (text) => ({ headers: { [text]: 'x' } }),
  headers: (text) => ({ headers: { 'X-Order': text, 'List-Id': 'x' } }),
  'tags by this name': (text) => ({ tags: [{ name: text, value: 'x' }] }),
  tags: (text) => ({ tags: [{ name: 'x', value: text }] }),
  'metadata by this name': (text) => ({ metadata: { [text]: 'x' } }),
  metadata: (text) => ({ metadata: { note: text } }),
  'attachments by this name': (text) => ({ attachments: [{ filename: text, content: 'eA==' }] }),
  'attachments of this type': (text) => ({ attachments: [file({ content_type: text })] }),
  'attachments of this id': (text) => ({ attachments: [file({ content_id: text })] }),
  'attachments of these bytes': (text) => ({ attachments: [file({ content: text })] }),
  'attachments at this place': (text) => ({ attachments: [{ filename: 'a.txt', path: text }] }),
  'template by this name': (text) => ({ ...NO_CONTENT, template: { id: text } }),
  'template with this variable': (text) => ({
    ...NO_CONTENT,
    template: { id: 'x', variables: { [text]: 1 } },
  }),
  template: (text) => ({ ...NO_CONTENT, template: { id: 'x', variables: { v: [text] } } }),
  scheduled_at: (text) => ({ scheduled_at: text }),
  stream: (text) => ({ stream: text }),
}
const NO_CONTENT = { html: undefined, text: undefined }
const file = (more: Json) => ({ filename: 'a.txt', content: 'eA==', ...more })

/** What may stand in one mail beside another: the rest is looked at by itself. */
const TOGETHER = [
  'from with this name',
  'to with this name',
  'cc with this name',
  'bcc with this name',
  'reply_to with this name',
  'subject',
  'html',
  'text',
  'headers',
  'metadata',
  'attachments by this name',
]

function fieldsThatTake(text: string): string[] {
  return Object.entries(FIELDS).flatMap(([field, place]) =>
    parseMessage(plainWith(place(text))).ok ? [field] : [],
  )
}

function plainWith(changes: Json): Json {
  // As JSON has it: what is undefined is not there.
  return JSON.parse(JSON.stringify({ ...PLAIN, ...changes })) as Json
}

/** One mail for each text, with it in every field that takes it; and one more for each address made of it. */
function mailsOf(text: string): Json[] {
  const taken = fieldsThatTake(text)
  const changes = TOGETHER.filter((field) => taken.includes(field)).map((field) => FIELDS[field]?.(text))
  const addresses = taken.filter((field) => /^(?:to|cc|bcc|reply_to|from)(?: be.*)?$/.test(field))
  return [
    plainWith(Object.assign({}, ...changes)),
    ...addresses.map((field) => plainWith(FIELDS[field]?.(text) ?? {})),
  ]
}

describe('any text in any field', () => {
  test('is taken, or refused by naming that field', () => {
    let taken = 0
    let refused = 0
    for (const text of HOSTILE_STRINGS) {
      for (const [field, place] of Object.entries(FIELDS)) {
        const parsed = parseMessage({ ...PLAIN, ...place(text) })
        if (parsed.ok) taken += 1
        else {
          refused += 1
          const { field: named = '', message } = parsed.problem
          assert.equal(named.split(/[.[]/)[0], field.split(' ')[0], `${JSON.stringify(text)}: ${message}`)
          assert.doesNotMatch(message, /[\p{Cc}\u2028\u2029\p{Cs}]/u)
        }
      }
    }
    assert.ok(taken > 4_000 && refused > 8_000, `${taken} taken, ${refused} refused`)
  })

  test('with a control character in it, is taken only where it is a body, data or a word for us', () => {
    for (const text of HOSTILE_STRINGS.filter((each) => /[\p{Cc}\u2028\u2029]/u.test(each))) {
      const inMail = fieldsThatTake(text).filter((field) => !/^(?:html|text|metadata|template)/.test(field))
      // White space around a moment or base64 means nothing.
      const elsewhere = inMail.filter((field) => !/^(?:scheduled_at|attachments of these bytes)$/.test(field))
      assert.deepEqual(elsewhere, [], JSON.stringify(text))
    }
  })
})

type Door = (mails: readonly Json[]) => Promise<string[]>

/** REST, and each way that SQL has. */
function doorsOf(database: TestDatabase, service: TestService): readonly Door[] {
  const byRest: Door = async (mails) => {
    const ids: string[] = []
    for (let start = 0; start < mails.length; start += 100) {
      const response = await service.request('/emails/batch', { body: mails.slice(start, start + 100) })
      const answer = (await response.json()) as { data: { id: string }[] }
      assert.equal(response.status, 200, JSON.stringify(answer))
      ids.push(...answer.data.map(({ id }) => id))
    }
    return ids
  }
  const bySql =
    (statement: string): Door =>
    async (mails) =>
      (await database.query<{ id: string }>(statement, [JSON.stringify(mails)])).map(({ id }) => id)
  return [
    byRest,
    bySql('insert into mail.outbox (message) select value from json_array_elements($1::json) returning id'),
    bySql('insert into mail.intake (message) select value from json_array_elements($1::json) returning id'),
    bySql('select mail.send(value) as id from jsonb_array_elements($1::jsonb)'),
  ]
}

let database: TestDatabase
let service: TestService
let sink: SmtpSink

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  sink = await startSmtpSink(t as Parameters<typeof startSmtpSink>[0])
  service = await startTestService(database, { SMTP_URL: sink.url })
})

/** The mails that arrived for these ids, once there are as many. */
async function arrivals(ids: Iterable<string>): Promise<Map<string, SunkMail>> {
  const wanted = new Set(ids)
  const arrived = () => sink.mails.filter((mail) => wanted.has(sluiceIdOf(mail)))
  await eventually(`${wanted.size} mails arrived`, async () => arrived().length >= wanted.size, 120_000)
  assert.equal(arrived().length, wanted.size)
  return new Map(arrived().map((mail) => [sluiceIdOf(mail), mail]))
}

test('what is taken arrives as exactly the headers, bodies and recipients that were meant, by REST and by SQL', async (t) => {
  const mails = HOSTILE_STRINGS.flatMap(mailsOf)
  const expected = new Map<string, Message>()
  for (const [index, door] of doorsOf(database, service).entries()) {
    const given = mails.filter((_, place) => place % 4 === index)
    const ids = await door(given)
    assert.equal(ids.length, given.length)
    for (const [place, id] of ids.entries()) expected.set(id, readMessage(given[place]))
  }
  for (const [id, mail] of await arrivals(expected.keys())) {
    await checkMail(mail, expected.get(id) as Message)
  }
  assert.equal(sink.mails.length, expected.size, 'no mail that nobody handed over')
  assert.deepEqual(await database.query('select code, reason from mail.dead_letter'), [])
  t.diagnostic(`${expected.size} mails made of ${HOSTILE_STRINGS.length} texts`)
})

test('a template shows any text as text: escaped in HTML, as it is in plain text, and never as a second header', async () => {
  const template = { name: 'naughty', from: 'shop@example.com', html: '<p>{{ v }}</p>', text: '{{ v }}.' }
  for (const draft of [
    { ...template, subject: 'Hi' },
    { ...template, name: 'naughty-subject', subject: '{{ v }}!' },
  ]) {
    const made = await service.request('/templates', { body: draft })
    assert.equal(made.status, 200, await made.text())
    await service.request(`/templates/${draft.name}/publish`, { body: {} })
  }
  const texts = HOSTILE_STRINGS.filter((v) => parseMessage({ ...PLAIN, ...FIELDS.template?.(v) }).ok)
  // Where it cannot be a subject, it is given to both: one mail, and one dead letter.
  const uses = texts.flatMap((v) =>
    isLine(`${v}!`.trim())
      ? [{ v, id: 'naughty-subject' }]
      : ['naughty', 'naughty-subject'].map((id) => ({ v, id })),
  )
  const isDead = ({ v, id }: { v: string; id: string }) => id === 'naughty-subject' && !isLine(`${v}!`.trim())
  const [byRest] = doorsOf(database, service)
  const ids =
    (await byRest?.(
      uses.map(({ v, id }) => ({ to: 'ann@example.net', template: { id, variables: { v } } })),
    )) ?? []
  const arrived = await arrivals(ids.filter((_, place) => !isDead(uses[place] ?? { v: '', id: '' })))
  for (const [place, { v, id }] of uses.entries()) {
    const mail = arrived.get(ids[place] ?? '')
    if (mail === undefined) continue
    const { html = '', text = '', subject, headers } = await PostalMime.parse(mail.raw)
    assert.deepEqual(headers.map(({ key }) => key).sort(), [...OURS].sort(), JSON.stringify(v))
    assert.equal(subject, id === 'naughty' ? 'Hi' : `${v}!`.trim(), JSON.stringify(v))
    assert.equal(plainEnds(text), plainEnds(`${v}.`))
    assert.equal(plainEnds(html), plainEnds(`<p>${escaped(v)}</p>`))
  }
  const letters = await lettersOf(ids.filter((id) => !arrived.has(id)))
  assert.ok(letters.length > 50, `${letters.length} could be no subject`)
  for (const { code, reason } of letters) {
    assert.match(code, /^output_(?:invalid|too_large)$/)
    assert.match(reason, /^The subject cannot be rendered: it (?:contains|is longer)/)
  }
})

/** What can be a subject. */
function isLine(text: string): boolean {
  return !/[\p{Cc}\u2028\u2029]/u.test(text) && text.length <= 998
}

/** Their dead letters, once each has one. */
function lettersOf(ids: readonly string[]): Promise<{ code: string; reason: string }[]> {
  return eventually('each has a dead letter', async () => {
    const found = await database.query<{ code: string; reason: string }>(
      'select code, reason from mail.dead_letter where message_id = any($1)',
      [ids],
    )
    return found.length === ids.length && found
  })
}

test('any text that Postgres takes is a key and a source: its mail is there once', async () => {
  const keys = storableTexts(200).filter((text) => text !== '')
  const message = { ...PLAIN, scheduled_at: 'in 1 day' }
  const insert = () =>
    database.query<{ id: string }>(
      `insert into mail.outbox (message, idempotency_key, source)
       select $1::json, value, value from unnest($2::text[]) value returning id`,
      [JSON.stringify(message), keys],
    )
  const [first, again] = [await insert(), await insert()].map((rows) => rows.map(({ id }) => id))
  await eventually(
    'all are moved',
    async () => (await database.query('select from mail.outbox')).length === 0,
  )
  const stored = (ids: readonly string[] = []) =>
    database.query('select from mail.message where id = any($1)', [ids])
  assert.deepEqual([(await stored(first)).length, (await stored(again)).length], [keys.length, 0])
  // What a header can carry is the same key over REST: it stands for the mail that came by SQL.
  const words = keys.filter((each) => /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(each))
  for (const key of words.slice(0, 25)) {
    const response = await service.request('/emails', { body: message, headers: { 'Idempotency-Key': key } })
    const { id } = (await response.json()) as { id: string }
    assert.equal(id, first?.[keys.indexOf(key)], key)
  }
})

test('any text that Postgres takes may be named as a stream: what is none is a dead letter that says so', async () => {
  const rows = await database.query<{ id: string }>(
    'insert into mail.intake (message, stream) select $1::json, value from unnest($2::text[]) value returning id',
    [JSON.stringify(PLAIN), storableTexts(64)],
  )
  for (const { code, reason } of await lettersOf(rows.map(({ id }) => id))) {
    assert.equal(code, 'unknown_stream')
    assert.ok(isLine(reason), JSON.stringify(reason))
  }
})

function storableTexts(maxChars: number): string[] {
  return HOSTILE_STRINGS.filter(
    (text) => text.isWellFormed() && !text.includes('\0') && [...text].length <= maxChars,
  )
}

function escaped(text: string): string {
  const names: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&#34;',
    "'": '&#39;',
  }
  return text.replace(/[&<>"']/g, (character) => names[character] ?? '')
}

function readMessage(given: unknown): Message {
  const parsed = parseMessage(given)
  assert.ok(parsed.ok)
  return parsed.message
}

const OURS = ['from', 'to', 'subject', 'message-id', 'date', 'x-sluice-id', 'mime-version', 'content-type']

async function checkMail(sunk: SunkMail, message: Message): Promise<void> {
  const { to, cc, bcc, reply_to: replyTo, headers, from } = message
  const shown = JSON.stringify(message)
  assert.doesNotMatch(sunk.raw.toString('latin1'), /[^\t\r\n -~]|\r(?!\n)|(?<!\r)\n/, shown)
  assert.deepEqual(
    [...new Set(sunk.to.map(asOnTheWire))].sort(),
    [...new Set([...to, ...cc, ...bcc].map(({ address }) => address))].sort(),
    shown,
  )
  assert.equal(asOnTheWire(sunk.from), from?.address, shown)
  const mail = await PostalMime.parse(sunk.raw)
  assert.deepEqual(
    mail.headers.map(({ key }) => key).sort(),
    [
      ...OURS,
      ...(cc.length > 0 ? ['cc'] : []),
      ...(replyTo.length > 0 ? ['reply-to'] : []),
      ...Object.keys(headers).map((name) => name.toLowerCase()),
    ].sort(),
    shown,
  )
  assert.deepEqual(partsOf(mail), partsMeant(message), shown)
}

/** The sink shows domains in Unicode, whatever it was told. */
function asOnTheWire(address: string): string {
  const at = address.lastIndexOf('@') + 1
  return `${address.slice(0, at)}${domainToASCII(address.slice(at))}`
}

type Parts = Readonly<Record<string, unknown>>

function partsOf(mail: Email): Parts {
  const mailboxes = (list: Email['to']) => (list ?? []).map(({ address, name }) => [address, name])
  return {
    from: mailboxes(mail.from === undefined ? [] : [mail.from]),
    to: mailboxes(mail.to),
    cc: mailboxes(mail.cc),
    replyTo: mailboxes(mail.replyTo),
    subject: mail.subject,
    order: decodeWords(mail.headers.find(({ key }) => key === 'x-order')?.value ?? ''),
    html: plainEnds(mail.html ?? ''),
    text: plainEnds(mail.text ?? ''),
    files: mail.attachments.map(({ filename, content }) => [
      filename,
      Buffer.from(content as ArrayBuffer).toString(),
    ]),
  }
}

function partsMeant(message: Message): Parts {
  const mailboxes = (list: Message['to']) => list.map(({ address, name = '' }) => [address, name])
  return {
    from: mailboxes(message.from === undefined ? [] : [message.from]),
    to: mailboxes(message.to),
    cc: mailboxes(message.cc),
    replyTo: mailboxes(message.reply_to),
    subject: message.subject,
    order: message.headers['X-Order'] ?? '',
    html: plainEnds(message.html ?? ''),
    text: plainEnds(message.text ?? ''),
    files: (message.attachments ?? []).map(({ filename }) => [filename, 'x']),
  }
}

/** A line end is one of mail, the last one may be the mail's own, and a reader takes a byte-order mark for no text. */
function plainEnds(text: string): string {
  return text
    .replace(/\r\n|\r|\n/g, '\n')
    .replace(/\n+$/, '')
    .replace(/^\ufeff/, '')
}
