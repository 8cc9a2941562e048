import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import PostalMime from 'postal-mime'
import { Base64Bytes, encodeJson } from '../../../src/dispatch/http/json-body.ts'
import type { OutgoingAttachment } from '../../../src/dispatch/mime/attachment-part.ts'
import { formOf, jsonOf, type Received, type StandInProvider } from '../../support/provider-rules.ts'
import { startStandIn } from '../../support/provider-stand-ins.ts'
import { openFor, outgoing, PROVIDERS, toOne, verdict } from './outgoing-mail.ts'

const PDF: OutgoingAttachment = {
  filename: 'Rechnung; März.pdf',
  contentType: 'application/pdf; version=1.7',
  content: randomBytes(100_000),
}
const LOGO: OutgoingAttachment = {
  filename: 'logo.png',
  contentType: 'image/png',
  contentId: 'logo',
  content: randomBytes(101),
}
const WITH_BOTH = { html: '<img src="cid:logo">', attachments: [PDF, LOGO] }

type Seen = { readonly name: string; readonly type: string; readonly content: Buffer; readonly id?: string }

/** What the provider makes of the attachments, in its own fields. */
async function attachmentsIn(provider: StandInProvider, received: Received): Promise<Seen[]> {
  if (provider === 'ses' || provider === 'mailgun') {
    const { attachments } = await PostalMime.parse(await rawIn(provider, received), {
      attachmentEncoding: 'arraybuffer',
    })
    return attachments.map((each) => ({
      name: each.filename ?? '',
      type: each.mimeType,
      content: Buffer.from(each.content as ArrayBuffer),
      ...(each.disposition === 'inline' && { id: each.contentId?.slice(1, -1) ?? '' }),
    }))
  }
  const json = jsonOf(received)
  // biome-ignore lint/suspicious/noExplicitAny: whatever was sent.
  return (json.attachments ?? json.Attachments).map((each: any) => {
    const id = each.content_id ?? each.ContentID?.replace(/^cid:/, '')
    return {
      name: each.filename ?? each.Name,
      type: each.type ?? each.content_type ?? each.ContentType,
      content: Buffer.from(each.content ?? each.Content, 'base64'),
      ...(id !== undefined && { id }),
    }
  })
}

async function rawIn(provider: StandInProvider, received: Received): Promise<Buffer> {
  if (provider === 'ses') return Buffer.from(jsonOf(received).Content.Raw.Data, 'base64')
  const file = (await formOf(received)).get('message')
  assert.ok(file instanceof Blob)
  return Buffer.from(await file.arrayBuffer())
}

/** As the providers state them, of the mail with its attachments encoded. */
const LIMITS: Readonly<Record<StandInProvider, number>> = {
  ses: 40_000_000,
  sendgrid: 29_500_000,
  mailgun: 25_000_000,
  postmark: 10_000_000,
  resend: 40_000_000,
}

for (const provider of PROVIDERS) {
  test(`${provider}: files and inline images arrive byte for byte, under the provider's own names`, async (t) => {
    const standIn = await startStandIn(t, provider)
    const outcome = await openFor(t, provider, standIn.url).send(outgoing(WITH_BOTH))
    assert.equal(verdict(outcome), 'accepted', JSON.stringify(outcome))
    assert.ok(standIn.requests[0])
    const seen = await attachmentsIn(provider, standIn.requests[0])
    const [pdf, logo] = seen.toSorted((a, b) => b.content.length - a.content.length)
    assert.equal(pdf?.name, provider === 'sendgrid' ? 'Rechnung_ März.pdf' : PDF.filename)
    assert.match(pdf?.type ?? '', /^application\/pdf(?:; version=1\.7)?$/)
    assert.ok(pdf?.content.equals(PDF.content) && pdf.id === undefined)
    assert.deepEqual([logo?.name, logo?.type, logo?.id], ['logo.png', 'image/png', 'logo'])
    assert.ok(logo?.content.equals(LOGO.content))
  })

  test(`${provider}: a mail larger than its limit is refused by that limit, before a byte is sent`, async (t) => {
    const standIn = await startStandIn(t, provider)
    const limit = LIMITS[provider]
    const transport = openFor(t, provider, standIn.url)
    const mailOf = (encodedBytes: number) =>
      outgoing({ attachments: [{ ...PDF, content: Buffer.alloc(Math.floor((encodedBytes / 78) * 57)) }] })
    const tooLarge = await transport.send(mailOf(limit))
    assert.equal(verdict(tooLarge), 'refused message_too_large')
    assert.match(tooLarge.kind === 'refused' ? (tooLarge.reply ?? '') : '', new RegExp(`at most ${limit}`))
    assert.equal(standIn.requests.length, 0)
    assert.equal(verdict(await transport.send(mailOf(limit - 20_000))), 'accepted')
  })

  test(`${provider}: an attachment that could start a header is refused without being sent`, async (t) => {
    const standIn = await startStandIn(t, provider)
    const transport = openFor(t, provider, standIn.url)
    for (const changes of [
      { filename: 'a\r\nBcc: x@evil.test' },
      { contentId: 'a>\r\nX: y' },
      { contentType: 'a' },
    ]) {
      const outcome = await transport.send(outgoing({ attachments: [{ ...PDF, ...changes }] }))
      assert.equal(verdict(outcome), 'refused malformed_message')
    }
    assert.equal(standIn.requests.length, 0)
  })
}

test('in a batch, mail with attachments goes along where the provider takes it, and alone where not', async (t) => {
  const withAttachment = (number: number, bytes = 100) => {
    const each = toOne(number)
    return { ...each, mail: { ...each.mail, attachments: [{ ...PDF, content: Buffer.alloc(bytes) }] } }
  }
  for (const [provider, paths] of [
    ['postmark', ['POST /email/batch']],
    ['resend', ['POST /emails', 'POST /emails/batch']],
  ] as const) {
    const standIn = await startStandIn(t, provider)
    const { batch } = openFor(t, provider, standIn.url)
    const outcomes = await batch?.send([toOne(1), withAttachment(2), toOne(3)])
    assert.deepEqual(outcomes?.map(verdict), ['accepted', 'accepted', 'accepted'])
    assert.deepEqual(standIn.requests.map(({ path }) => path).toSorted(), paths)
  }
  const standIn = await startStandIn(t, 'postmark')
  const { batch } = openFor(t, 'postmark', standIn.url)
  const outcomes = await batch?.send(
    Array.from({ length: 8 }, (_, index) => withAttachment(index, 7_000_000)),
  )
  assert.ok(outcomes?.every((outcome) => verdict(outcome) === 'accepted'))
  assert.ok(standIn.requests.every(({ body }) => body.length <= 50_000_000))
})

test('bytes stand in JSON as base64, whatever stands around them', () => {
  const bytes = [randomBytes(100_001), Buffer.alloc(0), Buffer.from('ü')]
  const value = {
    a: 'größer "\\',
    list: bytes.map((each) => ({ content: new Base64Bytes(each) })),
    z: [null, 1],
  }
  const expected = { ...value, list: bytes.map((each) => ({ content: each.toString('base64') })) }
  assert.equal(encodeJson(value).toString(), JSON.stringify(expected))
  assert.equal(encodeJson({ plain: 'ü' }).toString(), '{"plain":"ü"}')
})
