import assert from 'node:assert/strict'
import { randomBytes, randomUUIDv7 } from 'node:crypto'
import test from 'node:test'
import fc from 'fast-check'
import {
  newEncryptionKey,
  openBytes,
  parseEncryptionKeys,
  SealError,
  Sealer,
  type SealFault,
  sealBytes,
} from '../src/sealer.ts'

const ID = randomUUIDv7()
const key = (id: string) => ({ id, bytes: randomBytes(32) })

test('what is sealed opens again, names its part and key, and is never the same twice', () => {
  const sealer = new Sealer([key('k1')])
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (text) => {
      const sealed = sealer.seal('content', ID, text)
      assert.deepEqual(sealer.open(ID, sealed), { part: 'content', text })
      assert.match(sealed, /^s1\.content\.k1\.[A-Za-z0-9_-]+$/)
      assert.notEqual(sealer.seal('content', ID, text), sealed)
    }),
  )
})

test('what was sealed for another message, part or key, or was changed, does not open', () => {
  const [one, two] = [key('one'), key('two')]
  const sealer = new Sealer([one, two])
  const sealed = sealer.seal('content', ID, 'secret')
  const [version, , , body = ''] = sealed.split('.')
  refuses('content_damaged', () => sealer.open(randomUUIDv7(), sealed))
  refuses('content_damaged', () => sealer.open(ID, `${version}.prepared.one.${body}`))
  refuses('content_damaged', () => sealer.open(ID, `${version}.content.two.${body}`))
  for (const wrong of [
    '',
    'secret',
    's1.content.one',
    `${sealed}.x`,
    `s2${sealed.slice(2)}`,
    's1.content.one.AAAA',
  ]) {
    refuses('content_damaged', () => sealer.open(ID, wrong))
  }
  const bytes = Buffer.from(body, 'base64url')
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const changed = Buffer.from(bytes)
      changed[at] = (changed[at] ?? 0) ^ flip
      refuses('content_damaged', () => sealer.open(ID, `s1.content.one.${changed.toString('base64url')}`))
    }),
  )
})

test('after a rotation the old key still opens, and the new one seals; without it what it sealed is named', () => {
  const [older, newer] = [key('older'), key('newer')]
  const sealed = new Sealer([older]).seal('content', ID, 'secret')
  const rotated = new Sealer([newer, older])
  assert.equal(rotated.open(ID, sealed).text, 'secret')
  assert.match(rotated.seal('content', ID, 'secret'), /^s1\.content\.newer\./)
  refuses('encryption_key_missing', () => new Sealer([newer]).open(ID, sealed))
  refuses('no_encryption_key', () => new Sealer([]).seal('content', ID, 'secret'))
})

test('a fingerprint is found again after a rotation, and tells nothing without the key', () => {
  const [older, newer] = [key('older'), key('newer')]
  const fingerprint = randomBytes(32)
  const [before] = new Sealer([older]).digestsOf(fingerprint)
  const after = new Sealer([newer, older]).digestsOf(fingerprint)
  assert.ok(before !== undefined && after.some((each) => each.equals(before)))
  assert.equal(after[0]?.equals(before), false)
  assert.deepEqual(new Sealer([]).digestsOf(fingerprint), [])
})

test('the bytes of an attachment open with their own key alone', () => {
  const bytes = randomBytes(100_000)
  const sealed = sealBytes(bytes)
  assert.deepEqual(openBytes(sealed.bytes, sealed.key), bytes)
  refuses('content_damaged', () => openBytes(sealed.bytes, sealBytes(bytes).key))
  refuses('content_damaged', () => openBytes(sealed.bytes.subarray(1), sealed.key))
})

test('keys are read strictly, and no complaint about them repeats one', () => {
  const good = newEncryptionKey(new Date('2026-11-22'))
  assert.match(good, /^k20261122-[0-9a-f]{4}:/)
  const [first, second] = parseEncryptionKeys(`${good}, other:${randomBytes(32).toString('base64')}`)
  assert.equal(first?.bytes.length, 32)
  assert.equal(second?.id, 'other')
  const secret = good.split(':')[1] ?? ''
  for (const wrong of [
    secret,
    `:${secret}`,
    `a b:${secret}`,
    `k:${secret.slice(4)}`,
    `k:${secret}${secret}`,
    `k:!${secret.slice(1)}`,
    `k:${secret},k:${secret}`,
    `k:${secret},`,
  ]) {
    assert.throws(
      () => parseEncryptionKeys(wrong),
      (error: Error) => !error.message.includes(secret.slice(4, 20)),
      wrong,
    )
  }
})

function refuses(code: SealFault, work: () => unknown): void {
  assert.throws(work, (error) => error instanceof SealError && error.code === code)
}
