import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { API_ERRORS } from '../../src/errors.ts'
import type { Message } from '../../src/message/message.ts'
import { parseMessage } from '../../src/message/message-schema.ts'

const FORBIDDEN_IN_HEADERS = /[\r\n\0]/

/** Everything of a message that is written into its header or its envelope. */
function headerBound(message: Message): string[] {
  const sender = message.from === undefined ? [] : [message.from]
  const addresses = [...sender, ...message.to, ...message.cc, ...message.bcc, ...message.reply_to]
  return [
    ...addresses.flatMap(({ address, name = '' }) => [address, name]),
    message.subject ?? '',
    ...Object.entries(message.headers).flat(),
    ...message.tags.flatMap(({ name, value }) => [name, value]),
    message.stream ?? '',
    message.template?.id ?? '',
  ]
}

const line = fc.oneof(
  { weight: 20, arbitrary: fc.string({ minLength: 1 }) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary' }) },
  { weight: 1, arbitrary: fc.constantFrom('a\rb', 'a\nb', 'a\tb', '\0', '') },
)
const address = fc.oneof(
  { weight: 20, arbitrary: fc.emailAddress() },
  { weight: 2, arbitrary: fc.tuple(line, fc.emailAddress()).map(([name, spec]) => `"${name}" <${spec}>`) },
  { weight: 1, arbitrary: line },
)
const addresses = fc.oneof(address, fc.array(address, { minLength: 1, maxLength: 3 }))
const usually = <T>(arbitrary: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 30, arbitrary }, { weight: 1, arbitrary: fc.jsonValue() as fc.Arbitrary<unknown> })
const headerName = fc.oneof(
  { weight: 20, arbitrary: fc.stringMatching(/^X-[a-z]{1,5}$/) },
  { weight: 1, arbitrary: line },
)
const word = fc.oneof(
  { weight: 20, arbitrary: fc.stringMatching(/^[a-z]{1,8}$/) },
  { weight: 1, arbitrary: line },
)

const content = fc.oneof(
  fc.record({ html: usually(fc.string()), text: usually(fc.string()) }, { requiredKeys: ['text'] }),
  fc.record({
    template: usually(fc.record({ id: line, variables: fc.dictionary(fc.string(), fc.jsonValue()) })),
  }),
)
const envelope = fc.record(
  {
    from: usually(address),
    to: usually(addresses),
    cc: usually(addresses),
    reply_to: usually(addresses),
    subject: usually(line),
    headers: usually(fc.dictionary(headerName, line, { maxKeys: 3 })),
    tags: usually(fc.array(fc.record({ name: word, value: word }), { maxLength: 1 })),
    metadata: usually(fc.dictionary(fc.string({ minLength: 1 }), fc.string(), { maxKeys: 3 })),
    stream: usually(word),
    priority: usually(fc.integer({ min: 0, max: 9 })),
  },
  { requiredKeys: ['from', 'to', 'subject'] },
)
/** Close to a message, and in every field now and then something else. */
const nearlyMessage = fc.tuple(envelope, content).map(([first, second]) => ({ ...first, ...second }))

function checkAnswer(input: unknown): void {
  const parsed = parseMessage(input)
  if (parsed.ok) return
  const { name, field, message } = parsed.problem
  assert.ok(Object.hasOwn(API_ERRORS, name))
  assert.ok(field !== undefined && field !== '' && message.includes(`\`${field}\``), message)
  assert.ok(message.isWellFormed() && !FORBIDDEN_IN_HEADERS.test(message), message)
}

describe('for any input', () => {
  it('JSON gives a message or a problem with a known name and a field', () => {
    fc.assert(fc.property(fc.jsonValue(), checkAnswer))
    fc.assert(fc.property(nearlyMessage, checkAnswer), { numRuns: 1_000 })
  })

  it('values that JSON does not have are answered in the same way', () => {
    const anything = fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true })
    fc.assert(fc.property(anything, checkAnswer))
    fc.assert(
      fc.property(
        fc.constantFrom('from', 'to', 'headers', 'tags', 'metadata', 'template'),
        anything,
        (field, value) =>
          checkAnswer({ from: 'a@b.c', to: 'a@b.c', subject: 's', text: 't', [field]: value }),
      ),
      { numRuns: 1_000 },
    )
  })

  it('an accepted message can be stored: no NUL or lone surrogate anywhere', () => {
    fc.assert(
      fc.property(nearlyMessage, (input) => {
        const parsed = parseMessage(input)
        if (parsed.ok)
          assert.doesNotMatch(JSON.stringify(parsed.message), /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/)
      }),
      { numRuns: 1_000 },
    )
  })

  it('an accepted message has no CR, LF or NUL in anything bound for its header', () => {
    fc.assert(
      fc.property(nearlyMessage, (input) => {
        const parsed = parseMessage(input)
        if (!parsed.ok) return
        for (const text of headerBound(parsed.message)) assert.doesNotMatch(text, FORBIDDEN_IN_HEADERS)
      }),
      { numRuns: 1_000 },
    )
  })

  it('the nearly right messages are accepted often enough to mean something', () => {
    const accepted = fc
      .sample(nearlyMessage, { numRuns: 1_000, seed: 1 })
      .filter((input) => parseMessage(input).ok)
    assert.ok(accepted.length > 200 && accepted.length < 900, `${accepted.length} of 1000 were accepted`)
  })
})

describe('a line break', () => {
  const whole = {
    from: 'Shop <shop@example.com>',
    to: ['"Doe, Ada" <ada@example.org>'],
    cc: 'c@example.org',
    bcc: ['b@example.org'],
    reply_to: 'r@example.org',
    subject: 'Hello',
    text: 'Hi',
    headers: { 'X-Order': 'seven' },
    tags: [{ name: 'kind', value: 'order' }],
    stream: 'transactional',
  }
  type Path = readonly (string | number)[]
  const paths: readonly Path[] = [
    ['from'],
    ['to', 0],
    ['cc'],
    ['bcc', 0],
    ['reply_to'],
    ['subject'],
    ['headers', 'X-Order'],
    ['tags', 0, 'name'],
    ['tags', 0, 'value'],
    ['stream'],
  ]

  function injected(value: unknown, path: Path, at: number, text: string): unknown {
    const [key, ...rest] = path
    if (key === undefined) return insert(String(value), at, text)
    const copy: Record<string, unknown> | unknown[] = Array.isArray(value)
      ? [...value]
      : { ...(value as object) }
    Object.assign(copy, { [key]: injected((value as Record<string, unknown>)[key], rest, at, text) })
    return copy
  }

  function insert(value: string, at: number, text: string): string {
    const place = at % (value.length + 1)
    return value.slice(0, place) + text + value.slice(place)
  }

  const breaks = fc.constantFrom('\r\n', '\n', '\r', '\r\nBcc: x@y.z\r\n', '\n ', '\r\n\t')

  it('is refused at any place of any text bound for the header', () => {
    assert.ok(parseMessage(whole).ok)
    fc.assert(
      fc.property(fc.constantFrom(...paths), fc.nat(40), breaks, (path, at, text) => {
        const parsed = parseMessage(injected(whole, path, at, text))
        assert.ok(!parsed.ok)
        assert.ok(parsed.problem.field?.startsWith(String(path[0])))
      }),
      { numRuns: 1_000 },
    )
  })

  it('is refused at any place of a header name', () => {
    fc.assert(
      fc.property(fc.nat(10), breaks, (at, text) => {
        assert.ok(!parseMessage({ ...whole, headers: { [insert('X-Order', at, text)]: 'seven' } }).ok)
      }),
    )
  })
})
