import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { MAX_ATTACHMENTS_BYTES } from '../../src/message/message.ts'
import { DEFAULT_MESSAGE_LIMITS, parseMessage } from '../../src/message/message-schema.ts'
import type { Door } from '../../src/message/message-shape.ts'
import { parseListedHost } from '../../src/network/listed-hosts.ts'

const SHA256 = createHash('sha256').update('x').digest('hex')
const LISTED = ['files.example.com', '*.cdn.example.com', 'example.org:8443', 'http://intranet:8080']
const limits = {
  ...DEFAULT_MESSAGE_LIMITS,
  attachmentHosts: LISTED.flatMap((text) => parseListedHost(text) ?? []),
}

function parse(attachments: unknown, door: Door = 'rest') {
  const mail = { from: 'a@example.com', to: 'b@example.com', subject: 's', text: 't', attachments }
  return parseMessage(mail, limits, Date.now(), door)
}

function read(attachments: unknown, door?: Door) {
  const parsed = parse(attachments, door)
  assert.ok(parsed.ok, parsed.ok ? '' : parsed.problem.message)
  return parsed
}

function problemOf(attachments: unknown, door?: Door) {
  const parsed = parse(attachments, door)
  assert.ok(!parsed.ok)
  return parsed.problem
}

const base64 = (text: string) => Buffer.from(text).toString('base64')
const pdf = (changes: object = {}) => ({ filename: 'a.pdf', content: base64('hello'), ...changes })

describe('an attachment', () => {
  it('is read into its hash, its size, and its bytes aside', () => {
    const { message, contents } = read([pdf({ content_id: 'logo', content_type: 'Image/PNG' })])
    const sha256 = createHash('sha256').update('hello').digest('hex')
    assert.deepEqual(message.attachments, [
      { filename: 'a.pdf', content_type: 'image/png', content_id: 'logo', sha256, size: 5 },
    ])
    assert.deepEqual(
      contents.map((content) => [content.sha256, content.bytes.toString()]),
      [[sha256, 'hello']],
    )
  })

  it('keeps the parameters of its type, as an invitation needs them', () => {
    const given = 'Text/Calendar;method=REQUEST; charset=utf-8'
    const [attachment] = read([pdf({ content_type: given })]).message.attachments ?? []
    assert.equal(attachment?.content_type, 'text/calendar; method=REQUEST; charset=utf-8')
  })

  it('has the type its name tells when none is given', () => {
    const types = ['a.pdf', 'b.PNG', 'c.ics', 'd.unknown-thing', 'noextension', 'e.mhtml'].map((filename) => {
      const [attachment] = read([pdf({ filename })]).message.attachments ?? []
      return attachment?.content_type
    })
    assert.deepEqual(types.slice(0, 5), [
      'application/pdf',
      'image/png',
      'text/calendar',
      'application/octet-stream',
      'application/octet-stream',
    ])
    assert.doesNotMatch(types[5] ?? '', /^multipart/)
  })

  it('may have white space in its base64, and none is no list at all', () => {
    const [attachment] = read([pdf({ content: ' aGVs\r\n\tbG8= \n' })]).message.attachments ?? []
    assert.deepEqual(attachment && 'size' in attachment && attachment.size, 5)
    assert.equal('attachments' in read([]).message, false)
    assert.equal('attachments' in read(undefined).message, false)
  })

  it('given by URL of a listed host is named after the last segment, and keeps its query', () => {
    const paths = [
      'https://files.example.com/2026/Invoice%207.pdf?sig=a#page=2',
      'https://a.b.cdn.example.com/x.png',
      'https://EXAMPLE.org:8443/x.png',
      'http://intranet:8080/x.png',
    ]
    const { message, contents } = read(paths.map((path) => ({ path })))
    assert.deepEqual(message.attachments?.[0], {
      filename: 'Invoice 7.pdf',
      content_type: 'application/pdf',
      path: 'https://files.example.com/2026/Invoice%207.pdf?sig=a',
    })
    assert.equal(message.attachments?.length, 4)
    assert.deepEqual(contents, [])
  })

  it('in a row of SQL may name stored bytes, which over REST is an unknown field', () => {
    const named = [{ filename: 'a.pdf', sha256: SHA256 }]
    const { message } = read(named, 'row')
    assert.deepEqual(message.attachments, [
      { filename: 'a.pdf', content_type: 'application/pdf', sha256: SHA256, size: 0 },
    ])
    const { name, field, message: told } = problemOf(named)
    assert.deepEqual([name, field], ['invalid_attachment', 'attachments[0].sha256'])
    assert.match(told, /no such field/)
  })
})

/** What is given as the only attachment, the field at fault, and what the problem says. */
const REFUSED: readonly (readonly [given: unknown, field: string, reason: RegExp])[] = [
  [7, '', /it is 7/],
  [null, '', /null/],
  [pdf({ filename: undefined }), '.filename', /required/],
  [pdf({ filename: false }), '.filename', /boolean/],
  [pdf({ filename: ' ' }), '.filename', /empty/],
  [pdf({ filename: 'a\r\nBcc: x@y.z' }), '.filename', /line break/],
  [pdf({ filename: 'a\0.pdf' }), '.filename', /NUL/],
  [pdf({ filename: '../../etc/passwd' }), '.filename', /is a path/],
  [pdf({ filename: 'C:\\a.pdf' }), '.filename', /is a path/],
  [pdf({ filename: '..' }), '.filename', /is a path/],
  [pdf({ filename: '=?utf-8?B?YQ0KYg==?=.pdf' }), '.filename', /encoded for a mail header/],
  [pdf({ filename: 'a'.repeat(256) }), '.filename', /256 characters/],
  [pdf({ content: undefined }), '.content', /neither `content` nor `path`/],
  [pdf({ content: '' }), '.content', /empty/],
  [pdf({ content: ' \n' }), '.content', /empty/],
  [pdf({ content: 'aGVsbG8' }), '.content', /groups of four/],
  [pdf({ content: 'aGVsbG8==' }), '.content', /groups of four/],
  [pdf({ content: 'a===' }), '.content', /`=` at place 2/],
  [pdf({ content: 'aGVs=bG8' }), '.content', /`=` at place 5/],
  [pdf({ content: 'a-_b' }), '.content', /URL-safe/],
  [pdf({ content: 'data:application/pdf;base64,aGVsbG8=' }), '.content', /`:` at place 5/],
  [pdf({ content: 'aGVsbG8\u00a0' }), '.content', /place 8/],
  [pdf({ content: { type: 'Buffer', data: [1] } }), '.content', /an object/],
  [pdf({ content_type: 'pdf' }), '.content_type', /type and a subtype/],
  [pdf({ content_type: 'text/html; charset="utf-8"' }), '.content_type', /parameter/],
  [pdf({ content_type: 'application/pdf; name=other.exe' }), '.content_type', /parameter/],
  [pdf({ content_type: 'text/html; a=1; b=2; c=3; d=4; e=5' }), '.content_type', /parameter/],
  [pdf({ content_type: 'text/html\r\nX-Evil: 1' }), '.content_type', /type and a subtype/],
  [pdf({ content_type: 'multipart/mixed' }), '.content_type', /not the type of a file/],
  [pdf({ content_type: 'Message/Partial' }), '.content_type', /not the type of a file/],
  [pdf({ content_id: '<logo>' }), '.content_id', /does not fit/],
  [pdf({ content_id: '' }), '.content_id', /does not fit/],
  [pdf({ content_id: 'a'.repeat(129) }), '.content_id', /does not fit/],
  [pdf({ path: 'https://files.example.com/a' }), '.path', /`content` is there already/],
  [{ path: 'https://files.example.com/' }, '.filename', /required/],
  [{ path: 'https://files.example.com/a%2Fb' }, '.filename', /is a path/],
  [{ path: 'not a url' }, '.path', /not a URL/],
  [{ path: 'https://evil.example/a.pdf' }, '.path', /SLUICE_ATTACHMENT_HOSTS/],
  [{ path: 'http://files.example.com/a.pdf' }, '.path', /SLUICE_ATTACHMENT_HOSTS/],
  [{ path: 'https://files.example.com:8443/a.pdf' }, '.path', /SLUICE_ATTACHMENT_HOSTS/],
  [{ path: 'https://cdn.example.com/a.pdf' }, '.path', /SLUICE_ATTACHMENT_HOSTS/],
  [{ path: 'https://evilcdn.example.com/a.pdf' }, '.path', /SLUICE_ATTACHMENT_HOSTS/],
  [{ path: 'https://files.example.com@evil.example/a.pdf' }, '.path', /user name/],
  [{ path: 'file:///etc/passwd' }, '.path', /SLUICE_ATTACHMENT_HOSTS/],
  [{ path: `https://files.example.com/${'a'.repeat(2_100)}` }, '.path', /2\d\d\d characters/],
  [pdf({ contentType: 'application/pdf' }), '.contentType', /no such field/],
  [pdf({ size: 5 }), '.size', /no such field/],
]

describe('a wrong attachment', () => {
  for (const [given, field, reason] of REFUSED) {
    it(`is refused at its place: ${JSON.stringify(given)?.slice(0, 80)}`, () => {
      const problem = problemOf([pdf(), given])
      assert.deepEqual([problem.name, problem.field], ['invalid_attachment', `attachments[1]${field}`])
      assert.ok(problem.message.includes(`\`attachments[1]${field}\``), problem.message)
      assert.match(problem.message, reason)
    })
  }

  it('is also a list that is none, or too long', () => {
    for (const given of [{}, 'x', 7, null]) assert.equal(problemOf(given).name, 'invalid_attachment')
    const { name, field, message } = problemOf(Array.from({ length: 101 }, () => pdf()))
    assert.deepEqual([name, field], ['invalid_attachment', 'attachments'])
    assert.match(message, /101 entries; use at most 100/)
  })

  it('is a second one with the same content_id', () => {
    const { field, message } = problemOf([pdf({ content_id: 'logo' }), pdf({ content_id: 'logo' })])
    assert.equal(field, 'attachments[1].content_id')
    assert.match(message, /another attachment's/)
  })

  it('is the one with which they have more than 40 MB, counted decoded', () => {
    const half = Buffer.alloc(MAX_ATTACHMENTS_BYTES / 2).toString('base64')
    assert.ok(parse([pdf({ content: half }), pdf({ content: half })]).ok)
    const { field, message } = problemOf([pdf({ content: half }), pdf({ content: half }), pdf()])
    assert.equal(field, 'attachments[2].content')
    assert.match(message, /more than 41943040 bytes/)
  })

  it('is any URL where no host is listed, which names the setting', () => {
    const mail = { from: 'a@b.c', to: 'a@b.c', subject: 's', text: 't' }
    const parsed = parseMessage({ ...mail, attachments: [{ path: 'https://files.example.com/a.pdf' }] })
    assert.ok(!parsed.ok)
    assert.match(parsed.problem.message, /off, as the setting SLUICE_ATTACHMENT_HOSTS lists no host/)
  })
})

describe('for any input', () => {
  const usually = <T>(arbitrary: fc.Arbitrary<T>) =>
    fc.oneof({ weight: 10, arbitrary }, { weight: 1, arbitrary: fc.jsonValue() as fc.Arbitrary<unknown> })
  const nearly = fc.record(
    {
      filename: usually(fc.string({ minLength: 1, unit: 'binary' })),
      content: usually(fc.base64String({ minLength: 4 })),
      content_type: usually(fc.constantFrom('text/plain', 'a/b', 'x')),
      content_id: usually(fc.stringMatching(/^[\w.@-]{0,4}$/)),
      path: usually(fc.webUrl()),
      sha256: usually(fc.constant(SHA256)),
    },
    { requiredKeys: ['filename', 'content'] },
  )
  const isKnown = (name: string) => name === 'invalid_attachment' || name === 'validation_error'

  it('attachments give a message or a problem with one of two names and a field', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.jsonValue(), fc.array(usually(nearly), { maxLength: 4 })),
        fc.constantFrom<Door>('rest', 'row'),
        (given, door) => {
          const parsed = parse(given, door)
          if (parsed.ok) return
          const { name, field, message } = parsed.problem
          assert.ok(isKnown(name) && field?.startsWith('attachments'), message)
          assert.ok(message.isWellFormed() && !/[\r\n\0]/.test(message), message)
        },
      ),
      { numRuns: 2_000 },
    )
  })

  it('bytes come out as they went in', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 200 }), (bytes) => {
        const { contents } = read([pdf({ content: Buffer.from(bytes).toString('base64') })])
        assert.deepEqual(contents[0]?.bytes, Buffer.from(bytes))
      }),
    )
  })
})
