import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { createUnsubscribeLinks, type Unsubscription } from '../src/unsubscribe-links.ts'

const SECRET = randomBytes(32)
const BASE = 'https://mail.example.com'
const links = createUnsubscribeLinks(SECRET, BASE)

function tokenOf(unsubscription: Unsubscription): string {
  return links.urlOf(unsubscription)?.slice(`${BASE}/u/`.length) ?? ''
}

const ANN: Unsubscription = {
  messageId: '0198c0de-1234-7abc-8def-0123456789ab',
  stream: 'marketing',
  address: 'ann@example.net',
}

const unsubscription = fc.record({
  messageId: fc.uuid(),
  stream: fc.stringMatching(/^[a-z0-9_-]{1,64}$/),
  address: fc.stringMatching(/^[!#-'*+/-9=?^-~-]{1,64}@[a-z0-9.-]{1,180}$/),
})

test('what a link is made for is read from it again, whatever it is', () =>
  fc.assert(
    fc.property(unsubscription, (record) => {
      const given = { ...record }
      const url = links.urlOf(given) ?? ''
      assert.deepEqual(links.read(tokenOf(given)), given)
      // With its brackets it must stay one word of a header.
      assert.match(url, /^https:\/\/mail\.example\.com\/u\/[\w-]{1,600}$/)
    }),
  ))

test('a link is the same each time, and another for another message, stream or address', () => {
  const others = [
    { ...ANN, messageId: '0198c0de-1234-7abc-8def-0123456789ac' },
    { ...ANN, stream: 'news' },
    { ...ANN, address: 'bob@example.net' },
  ]
  assert.equal(new Set([ANN, { ...ANN }, ...others].map(tokenOf)).size, 4)
})

test('a link shows neither the address nor the stream nor the message', () => {
  const bytes = Buffer.from(tokenOf(ANN), 'base64url')
  const hidden = ['ann', 'example', 'marketing', Buffer.from('0198c0de12347abc', 'hex')]
  for (const each of hidden) assert.ok(!bytes.includes(each), String(each))
})

test('a token with any one bit altered, cut, or lengthened is refused', () => {
  const token = tokenOf(ANN)
  const bytes = Buffer.from(token, 'base64url')
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const altered = Buffer.from(bytes)
    altered[bit >> 3] = (altered[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    assert.equal(links.read(altered.toString('base64url')), undefined, `bit ${bit}`)
  }
  for (let chars = 0; chars < token.length; chars += 1) {
    assert.equal(links.read(token.slice(0, chars)), undefined, `${chars} characters`)
  }
  for (const more of ['A', '=', '==', ' ', '%00', '.'])
    assert.equal(links.read(token + more), undefined, more)
})

test('a token has one spelling', () => {
  // 58 bytes leave four bits of the last character without a meaning.
  const given = { ...ANN, address: 'anna@example.net' }
  const token = tokenOf(given)
  const spellings = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/'].map(
    (last) => token.slice(0, -1) + last,
  )
  const same = spellings.filter((each) =>
    Buffer.from(each, 'base64url').equals(Buffer.from(token, 'base64url')),
  )
  assert.ok(same.length > 1, 'the test needs a token whose end can be spelt in several ways')
  assert.deepEqual(
    spellings.filter((each) => links.read(each) !== undefined),
    [token],
  )
})

test('nothing a stranger makes up is read, and no token of another secret', () => {
  const stranger = createUnsubscribeLinks(randomBytes(32), BASE)
  assert.equal(stranger.read(tokenOf(ANN)), undefined)
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.string({ unit: 'binary' }),
        fc.uint8Array({ max: 255, maxLength: 500 }).map((bytes) => Buffer.from(bytes).toString('base64url')),
      ),
      (token) => links.read(token) === undefined,
    ),
  )
})

test('without a public URL no link is made, and old ones are still read', () => {
  const unreachable = createUnsubscribeLinks(SECRET, undefined)
  assert.equal(unreachable.urlOf(ANN), undefined)
  assert.deepEqual(unreachable.read(tokenOf(ANN)), ANN)
})
