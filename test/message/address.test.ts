import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import addressparser from 'nodemailer/lib/addressparser'
import { formatAddress, parseAddress } from '../../src/message/address.ts'

function accepted(text: string) {
  const parsed = parseAddress(text)
  assert.ok(parsed.ok, parsed.ok ? '' : parsed.reason)
  return parsed.address
}

function refusal(text: string): string {
  const parsed = parseAddress(text)
  assert.ok(!parsed.ok, `${JSON.stringify(text)} was accepted`)
  return parsed.reason
}

describe('an address is accepted', () => {
  it('bare', () => assert.deepEqual(accepted('a@b.c'), { address: 'a@b.c' }))

  it('with a plain name', () =>
    assert.deepEqual(accepted('Ada Lovelace <ada@example.com>'), {
      address: 'ada@example.com',
      name: 'Ada Lovelace',
    }))

  it('with a quoted name that holds a comma, a bracket and escapes', () =>
    assert.deepEqual(accepted(String.raw`"Doe, \"J\" <\\>" <j@b.c>`), {
      address: 'j@b.c',
      name: String.raw`Doe, "J" <\>`,
    }))

  it('with dots, parentheses and accents in an unquoted name', () =>
    assert.equal(accepted('Dr. Zoë (Sales) <z@b.c>').name, 'Dr. Zoë (Sales)'))

  it('in angle brackets alone, and then has no name', () => {
    assert.deepEqual(accepted('<a@b.c>'), { address: 'a@b.c' })
    assert.deepEqual(accepted('"" <a@b.c>'), { address: 'a@b.c' })
  })

  it('with its own text for a name, and then has no name', () =>
    assert.deepEqual(accepted('"a@b.c" <a@b.c>'), { address: 'a@b.c' }))

  it('with spaces around it', () => assert.deepEqual(accepted('  a@b.c '), { address: 'a@b.c' }))

  it('with every character of a dot-atom before the @', () => {
    const local = "a.!#$%&'*+-/=?^_`{|}~9"
    assert.equal(accepted(`${local}@b.c`).address, `${local}@b.c`)
  })

  it('with the case of the local part kept and the domain in lower case', () =>
    assert.equal(accepted('Ada@Example.COM').address, 'Ada@example.com'))

  it('with an internationalised domain, in its ASCII form', () => {
    assert.equal(accepted('a@münchen.de').address, 'a@xn--mnchen-3ya.de')
    assert.equal(accepted('a@日本語。jp').address, 'a@xn--wgv71a119e.jp')
  })

  it('at a host without a dot', () => assert.equal(accepted('root@localhost').address, 'root@localhost'))

  it('at its full length', () => {
    const local = 'l'.repeat(64)
    const domain = [...Array(3).fill('d'.repeat(61)), 'abc'].join('.')
    assert.equal(accepted(`${local}@${domain}`).address.length, 254)
  })
})

describe('an address is refused', () => {
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ['when empty', '  ', /is empty/],
    ['without an @', 'ada', /has no `@`/],
    ['with nothing before the @', '@b.c', /nothing before/],
    ['with nothing after the @', 'a@', /nothing after/],
    ['with nothing between the angle brackets', 'Ada <>', /nothing between/],
    ['with two @', 'a@b@c.d', /more than one `@`/],
    ['when it is a list with commas', 'a@b.c, d@e.f', /list of strings/],
    ['when it is a list with semicolons', 'a@b.c;d@e.f', /list of strings/],
    ['when it is a list of named mailboxes', 'A <a@b.c>, D <d@e.f>', /more than one `<`/],
    ['when a comma stands outside quotes', 'Acme, Inc. <a@b.c>', /outside quotes/],
    ['when it is a group', 'Team: a@b.c;', /list of strings/],
    ['when it is a route', '<@x.y:a@b.c>', /more than one `@`|not allowed/],
    ['when another address stands in its unquoted name', 'x@y.z <a@b.c>', /outside quotes/],
    ['when its name is only partly quoted', '"Ada" L <a@b.c>', /misplaced double quote/],
    ['when its name lacks the closing quote', '"Ada <a@b.c>', /misplaced double quote/],
    ['when a backslash escapes the closing quote', String.raw`"Ada\" <a@b.c>`, /misplaced double quote/],
    ['with text after the angle bracket', 'Ada <a@b.c> x', /not allowed|not a single/],
    ['with a closing bracket alone', 'a@b.c>', /without a `<`/],
    ['with a space inside', 'a b@c.d', /not a single address/],
    ['with a space inside the angle brackets', 'Ada < a@b.c >', /not a single address|not allowed/],
    ['with a comment', 'a(x)@b.c', /not allowed/],
    ['with a quoted local part', '"a b"@c.d', /quoted part/],
    ['with a local part outside ASCII', 'zoë@b.c', /outside ASCII/],
    ['with an encoded word for a local part', '=?utf-8?q?x=40evil=2eexample=3e?=@b.c', /encoded word/],
    ['with a leading dot', '.a@b.c', /misplaced dot/],
    ['with two dots in a row', 'a..b@c.d', /misplaced dot/],
    ['with a trailing dot before the @', 'a.@b.c', /misplaced dot/],
    ['with an address literal', 'a@[127.0.0.1]', /address literal/],
    ['with an @ inside an address literal', 'a@[x@evil.example]', /more than one `@`/],
    ['with an IP address for a domain', 'a@127.0.0.1', /IP address/],
    ['with an IP address in hexadecimal', 'a@0x7f.1', /IP address/],
    ['with an IP address in full-width digits', 'a@１２７.０.０.１', /IP address/],
    ['with an empty label', 'a@b..c', /misplaced dot/],
    ['with a dot at the end of the domain', 'a@b.c.', /misplaced dot/],
    ['with an empty label made by an ideographic full stop', 'a@b。。c', /misplaced dot/],
    ['with a label that starts with a hyphen', 'a@-b.c', /starts with a hyphen/],
    ['with a label that ends with a hyphen', 'a@b-.c', /ends with a hyphen/],
    ['with an underscore in the domain', 'a@b_c.d', /not allowed in a domain/],
    [
      'with a slash that a URL parser would cut the domain at',
      'a@bücher.example/x',
      /not allowed in a domain/,
    ],
    ['with a percent sign that a URL parser would decode', 'a@bücher%2eexample', /not allowed in a domain/],
    ['with a domain that IDNA does not know', 'a@℀.com', /internationalised/],
    ['with a local part over 64 characters', `${'l'.repeat(65)}@b.c`, /more than 64/],
    ['with a label over 63 characters', `a@${'d'.repeat(64)}.c`, /longer than 63/],
    ['with a label over 63 characters in its ASCII form', `a@${'d'.repeat(60)}ä.de`, /longer than 63/],
    ['over 254 characters', `a@${Array(5).fill('d'.repeat(60)).join('.')}`, /longer than 254/],
    ['with a name over 255 characters', `${'n'.repeat(256)} <a@b.c>`, /display name/],
    ['over 1,000 characters in all', `${'n'.repeat(1_000)} <a@b.c>`, /longer than 1000/],
    ['with a line break at the end', 'a@b.c\r\n', /line break/],
    ['with a line break in its name', '"A\nBcc: x@y.z" <a@b.c>', /line break/],
    ['with a tab', 'A\t<a@b.c>', /control character/],
    ['with a NUL', 'a@b.c\0', /NUL/],
    ['with a lone surrogate', 'A\ud800 <a@b.c>', /surrogate/],
  ]
  for (const [name, text, reason] of cases) it(name, () => assert.match(refusal(text), reason))

  it('without repeating more than 60 characters of it', () => {
    assert.doesNotMatch(refusal(`${'x'.repeat(900)}@-b.c`), /x{61}/)
  })
})

describe('a formatted address', () => {
  it('leaves a simple name without quotes', () =>
    assert.equal(formatAddress({ address: 'a@b.c', name: "Zoë O'Neil-Smith" }), "Zoë O'Neil-Smith <a@b.c>"))

  it('quotes a name with special characters and escapes what must be', () =>
    assert.equal(
      formatAddress({ address: 'a@b.c', name: String.raw`Doe, "J" \ Co.` }),
      String.raw`"Doe, \"J\" \\ Co." <a@b.c>`,
    ))

  it('quotes a name that would read as an encoded word', () =>
    assert.equal(formatAddress({ address: 'a@b.c', name: '=?utf-8?q?x?=' }), '"=?utf-8?q?x?=" <a@b.c>'))

  it('is the bare address when there is no name', () => {
    assert.equal(formatAddress({ address: 'a@b.c' }), 'a@b.c')
    assert.equal(formatAddress({ address: 'a@b.c', name: '' }), 'a@b.c')
  })
})

/** Text made of the characters that address grammars disagree on. */
const trickyText = fc
  .array(fc.constantFrom(...'ab.@<>()[]",;:\\ \'-=?_é。\u00a0'.split(''), 'a@b.c', ' <a@b.c>', '"'), {
    maxLength: 14,
  })
  .map((parts) => parts.join(''))
const local = fc.stringMatching(/^[\w!#$%&'*+/=?^`{|}~-]{1,9}(\.[\w!#$%&'*+/=?^`{|}~-]{1,9}){0,2}$/)
const domain = fc.stringMatching(/^([a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?\.){0,3}[a-zé]{2,5}$/)
const name = fc.oneof(fc.string({ unit: 'grapheme' }), fc.string(), trickyText)
const mailbox = fc.oneof(
  trickyText,
  fc.tuple(local, domain).map(([l, d]) => `${l}@${d}`),
  fc.tuple(trickyText, local, domain).map(([n, l, d]) => `${n} <${l}@${d}>`),
  fc.tuple(name, local, domain).map(([n, l, d]) => `"${n.replace(/["\\]/g, '\\$&')}" <${l}@${d}>`),
)

describe('for any text', () => {
  it('an accepted address reads the same to itself once formatted', () => {
    fc.assert(
      fc.property(mailbox, (text) => {
        const parsed = parseAddress(text)
        if (parsed.ok) assert.deepEqual(accepted(formatAddress(parsed.address)), parsed.address)
      }),
      { numRuns: 3_000 },
    )
  })

  it('an accepted address reads as the same single mailbox to nodemailer once formatted', () => {
    fc.assert(
      fc.property(mailbox, (text) => {
        const parsed = parseAddress(text)
        if (!parsed.ok) return
        const { address, name: displayName = '' } = parsed.address
        assert.deepEqual(addressparser(formatAddress(parsed.address)), [{ address, name: displayName }])
      }),
      { numRuns: 3_000 },
    )
  })

  it('the generated text is accepted often enough to mean something', () => {
    const texts = fc.sample(mailbox, { numRuns: 1_000, seed: 1 })
    const share = texts.filter((text) => parseAddress(text).ok).length / texts.length
    assert.ok(share > 0.3 && share < 0.95, `accepted share is ${share}`)
  })
})
