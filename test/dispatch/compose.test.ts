import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import PostalMime from 'postal-mime'
import { composeMail, type OutgoingMail } from '../../src/dispatch/compose.ts'
import { ComposeError } from '../../src/dispatch/mime/compose-error.ts'
import { MailContent } from '../../src/dispatch/mime/mail-content.ts'
import { lineFault } from '../../src/message/message-text.ts'

const BASE: OutgoingMail = {
  id: '0199b1a2-7c1e-7000-8000-000000000001',
  messageId: '<0199b1a2@shop.test>',
  date: new Date('2026-01-02T03:04:05Z'),
  from: { address: 'shop@shop.test', name: 'Shop' },
  to: [{ address: 'ann@mail.test' }],
  cc: [],
  replyTo: [],
  subject: 'Your order',
  headers: {},
}

function compose(fields: Partial<OutgoingMail>): string {
  return composeMail({ ...BASE, ...fields })
    .toBuffer()
    .toString('latin1')
}

function parse(fields: Partial<OutgoingMail>) {
  return PostalMime.parse(composeMail({ ...BASE, ...fields }).toBuffer())
}

/** Header names in order, folded lines joined to theirs; the parts' own headers are not among them. */
function headerNames(raw: string): string[] {
  const block = raw.slice(0, raw.indexOf('\r\n\r\n'))
  return block
    .split('\r\n')
    .filter((line) => !/^[ \t]/.test(line))
    .map((line) => line.slice(0, line.indexOf(':')))
}

function assertWellFormed(raw: string): void {
  assert.doesNotMatch(raw, /\r(?!\n)|(?<!\r)\n/, 'a bare CR or LF')
  assert.ok(raw.endsWith('\r\n'))
  for (const line of raw.split('\r\n')) assert.ok(line.length <= 998, `a line of ${line.length} bytes`)
  assert.match(raw, /^[\t\r\n -~]*$/, 'a byte outside ASCII')
}

/** One kind of line end and none at the very end, where parsers differ. */
const endings = (text: string) => text.replace(/\r\n|\r|\n/g, '\n').replace(/\n+$/, '')

test('a mail carries its addresses, subject, ids and both bodies', async () => {
  const mail = await parse({
    to: [{ address: 'ann@mail.test', name: 'Ann' }, { address: 'bob@mail.test' }],
    cc: [{ address: 'carl@mail.test' }],
    replyTo: [{ address: 'help@shop.test' }],
    html: '<p>Hi</p>',
    text: 'Hi',
    headers: { 'X-Order': '42', 'List-Unsubscribe': '<https://shop.test/u?t=1>' },
  })
  assert.deepEqual(mail.from, { address: 'shop@shop.test', name: 'Shop' })
  assert.deepEqual(
    mail.to?.map(({ address }) => address),
    ['ann@mail.test', 'bob@mail.test'],
  )
  assert.deepEqual(
    mail.cc?.map(({ address }) => address),
    ['carl@mail.test'],
  )
  assert.deepEqual(
    mail.replyTo?.map(({ address }) => address),
    ['help@shop.test'],
  )
  assert.equal(mail.subject, 'Your order')
  assert.equal(mail.messageId, BASE.messageId)
  assert.equal(mail.date, '2026-01-02T03:04:05.000Z')
  assert.equal(endings(mail.html ?? ''), '<p>Hi</p>')
  assert.equal(endings(mail.text ?? ''), 'Hi')
  const header = (key: string) => mail.headers.find((each) => each.key === key)?.value
  assert.equal(header('x-sluice-id'), BASE.id)
  assert.equal(header('x-order'), '42')
  assert.equal(header('list-unsubscribe'), '<https://shop.test/u?t=1>')
})

test('the headers a message brings come after ours', () => {
  const names = headerNames(compose({ text: 'Hi', headers: { 'X-First': '1', 'x-second': '2' } }))
  const ours = ['From', 'To', 'Subject', 'Message-ID', 'Date', 'X-Sluice-Id', 'MIME-Version']
  assert.deepEqual(names, [...ours, 'X-First', 'x-second', 'Content-Type', 'Content-Transfer-Encoding'])
})

test('the same mail gives the same bytes', () => {
  const fields = { text: 'Grüße', html: '<p>Grüße</p>' }
  assert.equal(compose(fields), compose(fields))
})

test('a mail to hidden recipients only has no Bcc and names nobody', () => {
  const raw = compose({ to: [], text: 'Hi' })
  assert.match(raw, /^To: undisclosed-recipients:;\r$/m)
  assert.doesNotMatch(raw, /bcc/i)
})

const BODIES: Readonly<Record<string, string>> = {
  ASCII: 'Hello\nworld\n',
  umlauts: 'Schöne Grüße aus Köln, das macht 12 €',
  Cyrillic: 'Здравствуйте! '.repeat(100),
  emoji: 'Order 📦 shipped 👩‍👩‍👧 🎉'.repeat(20),
  'a long line': `start ${'x'.repeat(5_000)} end`,
  'a long line without ASCII': 'ü'.repeat(5_000),
  'dots at line starts': '.\n..\n.hidden\n\n.',
  'mixed line ends': 'one\r\ntwo\nthree\rfour\r\n\r\nfive',
  'blanks at line ends': 'one  \ntwo\t\nthree ü \n',
  'equals signs': 'a=b==c=20=\nü=',
  'a control character': 'bell\u0007',
  'the boundary': `--=_sluice_${BASE.id}--\nnot the end`,
  nothing: '',
}
for (const [what, body] of Object.entries(BODIES)) {
  test(`a body with ${what} arrives as it was written`, async () => {
    const mail = await parse({ text: body, html: `<pre>${body}</pre>` })
    assert.equal(endings(mail.text ?? ''), endings(body))
    assert.equal(endings(mail.html ?? ''), endings(`<pre>${body}</pre>`))
    assertWellFormed(compose({ text: body, html: body }))
    assertWellFormed(compose({ text: body }))
  })
}

const encodingOf = (text: string) => /^Content-Transfer-Encoding: (.*)\r$/m.exec(compose({ text }))?.[1]

test('the encoding is the lightest that fits: as it is, quoted-printable, or base64 for other scripts', () => {
  assert.equal(encodingOf('plain'), '7bit')
  assert.equal(encodingOf('x'.repeat(998)), '7bit')
  assert.equal(encodingOf('x'.repeat(999)), 'quoted-printable')
  assert.equal(encodingOf('eine Schöne Bestellung über 12 Euro'), 'quoted-printable')
  assert.equal(encodingOf('Здравствуйте'), 'base64')
})

const HEADER_TEXTS = {
  umlauts: 'Ihre Bestellung – Größe 42',
  emoji: '📦 unterwegs 👩‍👩‍👧',
  Japanese: 'ご注文ありがとうございます。発送の準備が整いました。'.repeat(5),
  quotes: 'The "best" \\ (really), <b>; a@b.test',
  'many words': 'word '.repeat(150).trim(),
  'one endless word': 'x'.repeat(3_000),
  'runs of spaces': `a${' '.repeat(200)}b`,
  'an encoded word, literally': '=?utf-8?Q?a=0D=0ABcc:_x?= b',
}
for (const [what, text] of Object.entries(HEADER_TEXTS)) {
  test(`a subject and a name with ${what} arrive as they were written`, async () => {
    const fields = { subject: text, to: [{ address: 'ann@mail.test', name: text }], text: '' }
    const mail = await parse(fields)
    assert.equal(mail.subject, text)
    assert.deepEqual(mail.to, [{ address: 'ann@mail.test', name: text }])
    assertWellFormed(compose(fields))
  })
}

test('fifty recipients are folded into short lines', () => {
  const to = Array.from({ length: 50 }, (_, i) => ({
    address: `customer-${i}@mail.test`,
    name: `Customer ${i}`,
  }))
  const raw = compose({ to, text: '' })
  for (const line of raw.split('\r\n')) assert.ok(line.length <= 78, line)
})

function assertRefused(fields: Partial<OutgoingMail>, code: ComposeError['code']): void {
  assert.throws(
    () => compose({ text: '', ...fields }),
    (error) => error instanceof ComposeError && error.code === code,
  )
}

test('a line break in anything that reaches a header is refused', () => {
  for (const evil of ['a\r\nBcc: x@evil.test', 'a\nb', 'a\rb', 'a\0b', 'a\u2028b']) {
    assertRefused({ subject: evil }, 'unsafe_header')
    assertRefused({ from: { address: 'a@b.test', name: evil } }, 'unsafe_header')
    assertRefused({ headers: { 'X-Evil': evil } }, 'unsafe_header')
    assertRefused({ headers: { [evil]: 'x' } }, 'unsafe_header')
    assertRefused({ id: evil }, 'unsafe_header')
    assertRefused({ messageId: `<${evil}@b.test>` }, 'bad_message_id')
    assertRefused({ to: [{ address: `${evil}@b.test` }] }, 'bad_address')
    assertRefused({ cc: [{ address: `a@b.test${evil}` }] }, 'bad_address')
    assertRefused({ replyTo: [{ address: evil }] }, 'bad_address')
  }
})

test('a header that would stand beside one of ours is refused', () => {
  for (const name of [
    'From',
    'BCC',
    'subject',
    'Content-Type',
    'DKIM-Signature',
    'X-Sluice-ID',
    'Message-Id',
  ]) {
    assertRefused({ headers: { [name]: 'x' } }, 'reserved_header')
  }
  assertRefused({ headers: { 'Reply-To': 'x' }, replyTo: [{ address: 'a@b.test' }] }, 'reserved_header')
})

test('a date that is none is refused', () => assertRefused({ date: new Date(Number.NaN) }, 'bad_date'))

const nastyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 300 }),
  fc.string({
    unit: fc.constantFrom('\r', '\n', '.', ' ', '=', '?', '"', '\\', 'a', 'ü', '📦', ':', ',', '<'),
  }),
  fc
    .tuple(fc.constantFrom('x', ' ', 'ü', '=', '.'), fc.nat(2_500))
    .map(([unit, times]) => unit.repeat(times)),
)
const nastyMail = fc.record(
  {
    subject: nastyText,
    from: fc.record({ address: fc.constant('a@b.test'), name: nastyText }),
    to: fc.array(fc.record({ address: fc.oneof(fc.constant('c@d.test'), nastyText), name: nastyText }), {
      maxLength: 3,
    }),
    html: nastyText,
    text: nastyText,
    headers: fc.dictionary(fc.oneof(fc.constantFrom('X-A', 'List-Id', 'Bcc'), nastyText), nastyText, {
      maxKeys: 3,
    }),
  },
  { requiredKeys: ['subject'] },
)

test('any mail is refused or well-formed, with exactly the headers it should have', () => {
  fc.assert(
    fc.property(nastyMail, (fields) => {
      let raw: string
      try {
        raw = compose(fields)
      } catch (error) {
        assert.ok(error instanceof ComposeError)
        return
      }
      assertWellFormed(raw)
      const ours = ['From', 'To', 'Subject', 'Message-ID', 'Date', 'X-Sluice-Id', 'MIME-Version']
      const brought = Object.keys(fields.headers ?? {})
      const multipart = fields.html !== undefined && fields.text !== undefined
      const body = multipart ? ['Content-Type'] : ['Content-Type', 'Content-Transfer-Encoding']
      assert.deepEqual(headerNames(raw), [...ours, ...brought, ...body])
    }),
    { numRuns: 500 },
  )
})

test('any line of text that is not refused is read back the same', async () => {
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'grapheme', maxLength: 200 }), async (text) => {
      const subject = text.trim()
      fc.pre(lineFault(subject) === undefined)
      const { headers } = await parse({ text: '', headers: { 'X-Text': subject } })
      const mail = await parse({ text: subject, subject })
      assert.equal(mail.subject ?? '', subject)
      assert.equal(endings(mail.text ?? ''), endings(subject))
      assert.equal(headers.filter(({ key }) => key === 'x-text').length, 1)
    }),
    { numRuns: 200 },
  )
})

test('on the wire a dot at a line start is doubled and a lone dot ends the message', () => {
  assert.equal(
    new MailContent(['.a\r', '\nb.\r\n', '..\r\n']).toWire()?.toString(),
    '..a\r\nb.\r\n...\r\n.\r\n',
  )
})

test('a message that could be read as two is not put on the wire', () => {
  for (const raw of ['a\n.\r\nMAIL', 'a\r.\r\nb\r\n', 'a\r\n.\nb\r\n', 'no line end', '', 'a\r']) {
    assert.equal(new MailContent([raw]).toWire(), undefined, JSON.stringify(raw))
  }
})
