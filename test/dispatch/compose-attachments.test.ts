import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import PostalMime, { type Attachment } from 'postal-mime'
import { composeMail, type OutgoingMail } from '../../src/dispatch/compose.ts'
import type { OutgoingAttachment } from '../../src/dispatch/mime/attachment-part.ts'
import { ComposeError } from '../../src/dispatch/mime/compose-error.ts'
import { lineFault } from '../../src/message/message-text.ts'

const BASE: OutgoingMail = {
  id: '0199b1a2-7c1e-7000-8000-000000000001',
  messageId: '<0199b1a2@shop.test>',
  date: new Date('2026-01-02T03:04:05Z'),
  from: { address: 'shop@shop.test' },
  to: [{ address: 'ann@mail.test' }],
  cc: [],
  replyTo: [],
  subject: 'Your order',
  headers: {},
  html: '<p><img src="cid:logo"></p>',
  text: 'Hi',
}
const PDF: OutgoingAttachment = {
  filename: 'invoice.pdf',
  contentType: 'application/pdf',
  content: randomBytes(5_000),
}
const LOGO: OutgoingAttachment = {
  filename: 'logo.png',
  contentType: 'image/png',
  contentId: 'logo',
  content: randomBytes(57),
}

function rawOf(attachments: readonly OutgoingAttachment[], fields: Partial<OutgoingMail> = {}): string {
  return composeMail({ ...BASE, ...fields, attachments })
    .toBuffer()
    .toString('latin1')
}

async function parsed(attachments: readonly OutgoingAttachment[], fields: Partial<OutgoingMail> = {}) {
  const raw = composeMail({ ...BASE, ...fields, attachments }).toBuffer()
  assertWellFormed(raw.toString('latin1'))
  return PostalMime.parse(raw, { forceRfc822Attachments: true, attachmentEncoding: 'arraybuffer' })
}

function assertWellFormed(raw: string): void {
  assert.doesNotMatch(raw, /\r(?!\n)|(?<!\r)\n/, 'a bare CR or LF')
  assert.ok(raw.endsWith('\r\n'))
  for (const line of raw.split('\r\n')) assert.ok(line.length <= 998, `a line of ${line.length} bytes`)
  assert.match(raw, /^[\t\r\n -~]*$/, 'a byte outside ASCII')
}

function bytesOf(attachment: Attachment | undefined): Buffer {
  assert.ok(attachment?.content instanceof ArrayBuffer)
  return Buffer.from(attachment.content)
}

/** Types of all parts, in order. */
function typesIn(raw: string): string[] {
  return [...raw.matchAll(/^Content-Type: ([\w/-]+)/gm)].map(([, type]) => type ?? '')
}

test('files go beside the body and what the HTML shows goes with the HTML', async () => {
  const mail = await parsed([PDF, LOGO])
  assert.deepEqual(typesIn(rawOf([PDF, LOGO])), [
    'multipart/mixed',
    'multipart/alternative',
    'text/plain',
    'multipart/related',
    'text/html',
    'image/png',
    'application/pdf',
  ])
  assert.equal(mail.html?.trim(), BASE.html)
  assert.equal(mail.text?.trim(), BASE.text)
  const [logo, pdf] = mail.attachments
  assert.deepEqual(
    [logo?.filename, logo?.mimeType, logo?.contentId, logo?.disposition, logo?.related],
    ['logo.png', 'image/png', '<logo>', 'inline', true],
  )
  assert.deepEqual(
    [pdf?.filename, pdf?.mimeType, pdf?.contentId, pdf?.disposition],
    ['invoice.pdf', 'application/pdf', undefined, 'attachment'],
  )
  assert.ok(bytesOf(logo).equals(LOGO.content))
  assert.ok(bytesOf(pdf).equals(PDF.content))
})

test('a mail has only the multiparts it needs', () => {
  const { html: _html, ...plain } = BASE
  const { text: _text, ...rich } = BASE
  const types = (mail: OutgoingMail, attachments: readonly OutgoingAttachment[]) =>
    typesIn(
      composeMail({ ...mail, attachments })
        .toBuffer()
        .toString('latin1'),
    )
  assert.deepEqual(types(rich, [LOGO]), ['multipart/related', 'text/html', 'image/png'])
  assert.deepEqual(types(rich, [PDF]), ['multipart/mixed', 'text/html', 'application/pdf'])
  assert.deepEqual(types(BASE, [LOGO]).slice(0, 3), [
    'multipart/alternative',
    'text/plain',
    'multipart/related',
  ])
  // Without HTML nothing shows it, so it is a file like any other.
  assert.deepEqual(types(plain, [LOGO]), ['multipart/mixed', 'text/plain', 'image/png'])
  assert.match(
    composeMail({ ...plain, attachments: [LOGO] })
      .toBuffer()
      .toString(),
    /: attachment;/,
  )
  assert.deepEqual(types(BASE, []), types(BASE, []))
})

test('bytes of any number arrive as they were, and the size is known beforehand', async () => {
  for (const size of [0, 1, 2, 3, 56, 57, 58, 113, 114, 115, 100_000]) {
    const content = randomBytes(size)
    const mail = composeMail({ ...BASE, attachments: [{ ...PDF, content }] })
    const raw = mail.toBuffer()
    assert.equal(raw.length, mail.size)
    const { attachments } = await PostalMime.parse(raw, { attachmentEncoding: 'arraybuffer' })
    assert.ok(bytesOf(attachments[0]).equals(content), `${size} bytes`)
  }
})

test('the same mail gives the same bytes', () => {
  assert.equal(rawOf([PDF, LOGO]), rawOf([PDF, LOGO]))
})

test('text arrives byte for byte, and its charset is named when it can be known', async () => {
  const files: readonly (readonly [string, Buffer, string])[] = [
    ['text/csv', Buffer.from('id,name\n1,Jürgen\n'), 'text/csv; charset=utf-8'],
    ['text/csv', Buffer.from('id,name\r\n1,Ann\n.\n'), 'text/csv'],
    ['text/plain', Buffer.from([0x47, 0xfc, 0x72]), 'text/plain'],
    ['text/plain; charset="iso-8859-1"', Buffer.from([0x47, 0xfc, 0x72]), 'text/plain; charset="iso-8859-1"'],
    [
      'text/calendar; method=REQUEST; name=x',
      Buffer.from('BEGIN:VCALENDAR'),
      'text/calendar; method=REQUEST',
    ],
  ]
  for (const [contentType, content, expected] of files) {
    const file = { filename: 'a.txt', contentType, content }
    assert.ok(rawOf([file]).includes(`\r\nContent-Type: ${expected};\r\n name="a.txt"\r\n`), contentType)
    const raw = rawOf([file])
    const body = raw.slice(raw.lastIndexOf('\r\n\r\n') + 4, raw.lastIndexOf('\r\n--'))
    assert.ok(Buffer.from(body, 'base64').equals(content), contentType)
  }
})

test('an attached mail goes unencoded where that is safe, and as a file where it is not', async () => {
  const eml = 'From: a@b.test\r\nSubject: x\r\n\r\n.dots\r\n..\r\nbody\r\n'
  const attach = (content: string) => ({
    filename: 'mail.eml',
    contentType: 'message/rfc822',
    content: Buffer.from(content),
  })
  const safe = await parsed([attach(eml)])
  assert.equal(safe.attachments[0]?.mimeType, 'message/rfc822')
  assert.match(rawOf([attach(eml)]), /Content-Transfer-Encoding: 7bit\r\nContent-Disposition: attachment;/)
  assert.ok(rawOf([attach(eml)]).includes(`\r\n\r\n${eml}\r\n--`))
  assert.match(
    composeMail({ ...BASE, attachments: [attach(eml)] })
      .toWire()
      ?.toString() ?? '',
    /\r\n\.\.dots\r\n\.\.\.\r\nbody/,
  )
  const unsafe = [
    'Subject: ü\r\n\r\nx\r\n',
    'Subject: x\n\nx\n',
    `Subject: x\r\n\r\n${'x'.repeat(999)}\r\n`,
    `Subject: x\r\n\r\n--=_sluice_mixed_${BASE.id}--\r\n`,
  ]
  for (const content of unsafe) {
    const { attachments } = await parsed([attach(content)])
    assert.equal(attachments[0]?.mimeType, 'application/octet-stream')
    assert.equal(bytesOf(attachments[0]).toString(), content)
  }
  const other = await parsed([{ ...PDF, contentType: 'multipart/form-data; boundary=x' }])
  assert.equal(other.attachments[0]?.mimeType, 'application/octet-stream')
})

const NAMES: Readonly<Record<string, string>> = {
  spaces: 'my invoice 2026.pdf',
  quotes: 'the "final" \\ version.pdf',
  semicolons: 'a; filename=evil.exe',
  umlauts: 'Rechnung für März.pdf',
  emoji: '📦👩‍👩‍👧 order.pdf',
  Japanese: 'ご注文の確認.pdf',
  'right to left': 'فاتورة-\u202egpj.pdf',
  'percent signs': "100%25 'off'*.pdf",
  'spaces at both ends': '  a  b  ',
  '255 letters': `${'x'.repeat(251)}.pdf`,
  '255 emoji': '🎉'.repeat(255),
  '255 words': 'ab '.repeat(85).trim(),
}
for (const [what, filename] of Object.entries(NAMES)) {
  test(`a file name with ${what} arrives as it was, also for readers that know only the old form`, async () => {
    const [file] = (await parsed([{ ...PDF, filename }])).attachments
    assert.equal(file?.filename, filename)
    assert.ok(bytesOf(file).equals(PDF.content))
    const old = rawOf([{ ...PDF, filename }]).replace(
      /^Content-Disposition: attachment.*(?:\r\n .*)*\r\n/m,
      '',
    )
    const [legacy] = (await PostalMime.parse(old)).attachments
    assert.equal(legacy?.filename, filename)
  })
}

test('any file name that is not refused comes back the same, and starts no header of its own', async () => {
  const name = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 255 }),
    fc.string({ unit: 'grapheme', maxLength: 255 }),
    fc.string({
      unit: fc.constantFrom('"', '\\', ';', '=', '%', "'", '?', 'a', 'ü', '📦', ' ', '\r', '\n'),
      maxLength: 255,
    }),
  )
  await fc.assert(
    fc.asyncProperty(name, async (filename) => {
      // The parser reads encoded words wherever they stand.
      fc.pre(!filename.includes('=?'))
      const attachment = { ...PDF, filename }
      if (lineFault(filename) !== undefined) {
        assert.throws(() => composeMail({ ...BASE, attachments: [attachment] }), ComposeError)
        return
      }
      const mail = await parsed([attachment])
      assert.equal(mail.attachments.length, 1)
      assert.equal(mail.attachments[0]?.filename ?? '', filename)
      assert.ok(bytesOf(mail.attachments[0]).equals(PDF.content))
    }),
    { numRuns: 300 },
  )
})

test('a line break in anything of an attachment that reaches a header is refused', () => {
  for (const evil of ['a\r\nBcc: x@evil.test', 'a\nb', 'a\rb', 'a\0b', 'a\u2028b']) {
    for (const changes of [{ filename: evil }, { contentType: `text/${evil}` }, { contentId: evil }]) {
      const attachments = [{ ...PDF, ...changes }]
      assert.throws(() => composeMail({ ...BASE, attachments }), ComposeError, JSON.stringify(changes))
    }
  }
  for (const contentType of ['pdf', 'a/b/c', 'a/b; x', 'a/b; x="y', `text/${'x'.repeat(300)}`, '']) {
    const attachments = [{ ...PDF, contentType }]
    assert.throws(
      () => composeMail({ ...BASE, attachments }),
      (error) => error instanceof ComposeError && error.code === 'bad_content_type',
    )
  }
  for (const contentId of ['<a>', 'a b', 'ü', '', 'x'.repeat(300)]) {
    assert.throws(() => composeMail({ ...BASE, attachments: [{ ...PDF, contentId }] }), ComposeError)
  }
})

test('bytes that look like the end of a message stay inside it', async () => {
  const content = Buffer.from('\r\n.\r\nMAIL FROM:<x@evil.test>\r\n')
  const wire = composeMail({ ...BASE, attachments: [{ ...PDF, content }] }).toWire()
  assert.equal(wire?.toString('latin1').indexOf('\r\n.\r\n'), (wire?.length ?? 0) - 5)
})
