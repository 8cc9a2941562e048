import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { summarise, toSingleLine } from '../../src/inbox/summary.ts'

const ID = '01890a5d-ac96-774b-bcce-b302099a8057'

test('subject and sender are decoded, and the Sluice id is read', async () => {
  const raw = Buffer.from(
    [
      'From: =?utf-8?q?Caf=C3=A9?= <cafe@example.com>',
      'Subject: =?utf-8?b?R3LDvMOfZQ==?=',
      ' folded',
      `X-Sluice-Id: ${ID.toUpperCase()}`,
      '',
      'Subject: not this one',
    ].join('\r\n'),
  )
  assert.deepEqual(await summarise(raw), {
    subject: 'Grüße folded',
    sender: 'Café <cafe@example.com>',
    messageId: ID,
  })
})

test('a mail with bare line feeds is read too', async () => {
  assert.equal((await summarise(Buffer.from('Subject: plain\n\nbody'))).subject, 'plain')
})

test('a Sluice id that is no uuid is left out', async () => {
  assert.equal((await summarise(Buffer.from("X-Sluice-Id: '; drop table\r\n\r\n"))).messageId, null)
})

test('of two subjects the first counts', async () => {
  assert.equal((await summarise(Buffer.from('Subject: one\r\nSubject: two\r\n\r\n'))).subject, 'one')
})

test('a mail without headers has no title', async () => {
  assert.deepEqual(await summarise(Buffer.from('\r\nhello')), {
    subject: null,
    sender: null,
    messageId: null,
  })
})

test('any bytes give a summary Postgres can store', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 600 }), fc.boolean(), async (bytes, asSubject) => {
      const prefix = asSubject ? 'Subject: ' : ''
      const { subject, sender } = await summarise(Buffer.concat([Buffer.from(prefix), bytes]))
      for (const text of [subject, sender]) assert.ok(text === null || isStorable(text), JSON.stringify(text))
    }),
  )
})

test('any text becomes one storable line', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 2000 }), (text) => isStorable(toSingleLine(text))),
  )
  assert.equal(toSingleLine('a\u0000b\r\nc\ud800'), 'a b c\ufffd')
})

function isStorable(text: string): boolean {
  return text.isWellFormed() && !/\p{Cc}/u.test(text) && text.length <= 998
}
