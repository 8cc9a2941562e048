import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import addressparser from 'nodemailer/lib/addressparser'
import PostalMime from 'postal-mime'
import { composeMail } from '../../src/dispatch/compose.ts'
import { parseAddress } from '../../src/message/address.ts'

/**
 * Dominic Sayers' is_email set, every odd address there is, against the table of what is answered to each. Whoever
 * changes what is accepted changes that table, and sees there which addresses it is about.
 */
const SET = createRequire(import.meta.url).resolve('email-addresses/test/tests.xml')
const TABLE = new URL('is-email.tsv', import.meta.url)

type Case = { readonly id: string; readonly category: string; readonly address: string }

/** Controls are written there as their pictures, U+2400 and on. */
function readSet(): Case[] {
  const xml = readFileSync(SET, 'utf8')
  const part = (text: string, name: string) =>
    new RegExp(`<${name}>([\\s\\S]*?)</${name}>`).exec(text)?.[1] ?? ''
  return [...xml.matchAll(/<test id="(\d+)">([\s\S]*?)<\/test>/g)].map(([, id = '', text = '']) => ({
    id,
    category: part(text, 'category').replace(/^ISEMAIL_/, ''),
    address: unescaped(part(text, 'address')).replace(/[\u2400-\u241f]/g, (picture) =>
      String.fromCharCode(picture.charCodeAt(0) - 0x2400),
    ),
  }))
}

const NAMED: Readonly<Record<string, string>> = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' }

function unescaped(text: string): string {
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (whole, hex, decimal, name: string) => {
    if (name !== undefined) return NAMED[name] ?? whole
    return String.fromCodePoint(hex === undefined ? Number(decimal) : Number.parseInt(hex, 16))
  })
}

/** `accepted`, or why not, without the address and the advice. */
function answerTo(address: string): string {
  const parsed = parseAddress(address)
  if (parsed.ok) return 'accepted'
  return parsed.reason.slice(0, parsed.reason.lastIndexOf('; use')).replace(/^`.*` /s, '')
}

test('what is accepted and refused of the is_email set is what its table says', () => {
  const rows = readSet().map(({ id, category, address }) =>
    [id, category, answerTo(address), JSON.stringify(address)].join('\t'),
  )
  const expected = readFileSync(TABLE, 'utf8').split('\n').slice(1, -1)
  assert.equal(rows.length, 164)
  assert.deepEqual(rows, expected)
  const answersOf = (category: string) =>
    new Set(
      rows.map((row) => row.split('\t')).flatMap(([, its, answer]) => (its === category ? [answer] : [])),
    )
  assert.deepEqual([...answersOf('VALID_CATEGORY')], ['accepted'], 'none of the plainly valid is refused')
  assert.ok(!answersOf('ERR').has('accepted'), 'none of the invalid is accepted')
})

test('what is accepted is understood alike by all who read it later', async () => {
  for (const { id, address: given } of readSet()) {
    const parsed = parseAddress(given)
    if (!parsed.ok) continue
    const { address } = parsed.address
    assert.equal(address, given.trim(), id)
    assert.deepEqual(
      addressparser(address, { flatten: true }).map((each) => each.address),
      [address],
      id,
    )
    const raw = composeMail({
      id: 'x',
      messageId: '<x@shop.test>',
      date: new Date(0),
      from: parsed.address,
      to: [parsed.address],
      cc: [],
      replyTo: [],
      subject: 'x',
      headers: {},
      text: 'x',
    })
    const mail = await PostalMime.parse(raw.toBuffer())
    assert.deepEqual([mail.from?.address, mail.to?.map((each) => each.address)], [address, [address]], id)
  }
})
