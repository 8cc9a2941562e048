import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import type { Problem } from '../../src/errors.ts'
import { DEFAULT_MESSAGE_LIMITS, type MessageLimits, parseMessage } from '../../src/message/message-schema.ts'

const PLAIN = { from: 'Shop <shop@example.com>', to: 'ada@example.org', subject: 'Hello', text: 'Hi' }
const TEMPLATED = { from: 'shop@example.com', to: 'ada@example.org' }

function accepted(input: unknown, limits?: MessageLimits) {
  const parsed = parseMessage(input, limits)
  assert.ok(parsed.ok, parsed.ok ? '' : parsed.problem.message)
  return parsed.message
}

function problem(input: unknown, limits?: MessageLimits): Problem {
  const parsed = parseMessage(input, limits)
  assert.ok(!parsed.ok, 'the message was accepted')
  assert.ok(parsed.problem.message.includes(`\`${parsed.problem.field}\``), parsed.problem.message)
  assert.match(parsed.problem.message, /\.$/)
  return parsed.problem
}

/** Refused as `validation_error`, at this field, for this reason. */
function refused(input: unknown, field: string, reason: RegExp, limits?: MessageLimits): void {
  const found = problem(input, limits)
  assert.equal(found.name, 'validation_error')
  assert.equal(found.field, field)
  assert.match(found.message, reason)
}

function missing(input: unknown, field: string): void {
  const found = problem(input)
  assert.deepEqual([found.name, found.field], ['missing_required_field', field])
}

function withVariables(variables: unknown) {
  return { ...TEMPLATED, template: { id: 'welcome', variables } }
}

describe('a message is accepted', () => {
  it('with the least it can have, absent lists empty', () =>
    assert.deepEqual(accepted(PLAIN), {
      from: { address: 'shop@example.com', name: 'Shop' },
      to: [{ address: 'ada@example.org' }],
      cc: [],
      bcc: [],
      reply_to: [],
      subject: 'Hello',
      text: 'Hi',
      headers: {},
      tags: [],
      metadata: {},
    }))

  it('with every field, and keeps what was given', () => {
    const input = {
      ...PLAIN,
      cc: ['c@example.org'],
      bcc: 'b@example.org',
      reply_to: ['r@example.org'],
      html: '<p>Hi</p>',
      headers: { 'X-Order': ' 7 ' },
      tags: [{ name: 'kind', value: 'order_1-a' }],
      metadata: { order: '7' },
      stream: 'transactional',
      priority: 0,
    }
    const { from: _from, to: _to, ...rest } = accepted(input)
    assert.deepEqual(rest, {
      cc: [{ address: 'c@example.org' }],
      bcc: [{ address: 'b@example.org' }],
      reply_to: [{ address: 'r@example.org' }],
      subject: 'Hello',
      html: '<p>Hi</p>',
      text: 'Hi',
      headers: { 'X-Order': '7' },
      tags: [{ name: 'kind', value: 'order_1-a' }],
      metadata: { order: '7' },
      stream: 'transactional',
      priority: 0,
    })
  })

  it('with a template instead of content, subject or none', () => {
    const template = { id: ' welcome ', version: 2, variables: { name: 'Ada' } }
    assert.deepEqual(accepted({ ...TEMPLATED, template }).template, { ...template, id: 'welcome' })
    assert.equal('subject' in accepted({ ...TEMPLATED, template }), false)
    assert.equal(accepted({ ...TEMPLATED, subject: 'Own', template }).subject, 'Own')
  })

  it('with a template and no variables, which are then an empty object', () =>
    assert.deepEqual(accepted({ ...TEMPLATED, template: { id: 'welcome' } }).template, {
      id: 'welcome',
      variables: {},
    }))

  it('with undefined for what is absent, as code may write it', () =>
    assert.equal('html' in accepted({ ...PLAIN, html: undefined, cc: undefined }), false))

  it('with an empty text beside an html', () =>
    assert.equal(accepted({ ...PLAIN, html: '<p>Hi</p>', text: '' }).text, ''))

  it('with line breaks and tabs in its bodies, untouched', () =>
    assert.equal(accepted({ ...PLAIN, text: ' a\r\n\tb\n' }).text, ' a\r\n\tb\n'))
})

it('a message with a template needs neither sender nor subject', () => {
  const { from, subject } = accepted({ to: 'ada@example.org', template: { id: 'welcome' } })
  assert.deepEqual([from, subject], [undefined, undefined])
})

describe('a required field', () => {
  it('is named when absent', () => {
    missing({ ...PLAIN, from: undefined }, 'from')
    missing({ ...PLAIN, to: undefined }, 'to')
    missing({ ...PLAIN, subject: undefined }, 'subject')
    missing({ ...PLAIN, text: undefined }, 'html')
    missing({ ...TEMPLATED, template: {} }, 'template.id')
    missing({ ...PLAIN, tags: [{ name: 'a', value: 'b' }, { name: 'a' }] }, 'tags[1].value')
  })

  it('is reported in the order of the schema when several are absent', () => {
    missing({}, 'to')
    missing({ to: 'a@b.c' }, 'from')
  })

  it('is not the problem when it is there but wrong', () => {
    refused({ ...PLAIN, from: null }, 'from', /null/)
    refused({ ...PLAIN, to: [] }, 'to', /empty/)
    refused({ ...PLAIN, subject: ' ' }, 'subject', /empty/)
  })
})

describe('the shape', () => {
  it('must be an object', () => {
    for (const input of [null, undefined, [], 'text', 7, true, () => 1])
      refused(input, 'message', /JSON object/)
  })

  it('has no unknown fields, and a misspelt one is reported before the one it leaves missing', () => {
    refused({ ...PLAIN, from: undefined, form: 'a@b.c' }, 'form', /no such field.*`from`/)
    refused({ ...PLAIN, replyTo: 'a@b.c' }, 'replyTo', /`reply_to`/)
    refused({ ...PLAIN, tags: [{ name: 'a', value: 'b', colour: 'c' }] }, 'tags[0].colour', /no such field/)
    refused({ ...TEMPLATED, template: { id: 'a', data: {} } }, 'template.data', /`variables`/)
  })

  it('has the right types', () => {
    refused({ ...PLAIN, from: ['a@b.c'] }, 'from', /a list/)
    refused({ ...PLAIN, to: { email: 'a@b.c' } }, 'to', /an object/)
    refused({ ...PLAIN, to: ['a@b.c', 7] }, 'to[1]', /it is 7/)
    refused({ ...PLAIN, html: 7 }, 'html', /string of HTML/)
    refused({ ...PLAIN, headers: [] }, 'headers', /a list/)
    refused({ ...PLAIN, headers: { 'X-A': 1 } }, 'headers.X-A', /a string/)
    refused({ ...PLAIN, tags: {} }, 'tags', /an object/)
    refused({ ...PLAIN, metadata: { a: null } }, 'metadata.a', /null/)
    refused({ ...TEMPLATED, template: 'welcome' }, 'template', /a string/)
    refused(withVariables([]), 'template.variables', /a list/)
  })

  it('takes null for a mistake and not for absence', () => {
    refused({ ...PLAIN, cc: null }, 'cc', /null, and what is absent must be left out/)
    refused({ ...PLAIN, priority: null }, 'priority', /null/)
  })

  it('has a stream of 1 to 64 letters, digits, underscores and hyphens', () => {
    assert.equal(accepted({ ...PLAIN, stream: 'a_b-9' }).stream, 'a_b-9')
    for (const stream of ['', 'A', 'a b', 'a\n', 'x'.repeat(65)])
      refused({ ...PLAIN, stream }, 'stream', /1 to 64/)
  })

  it('has a whole priority from 0 to 9', () => {
    assert.equal(accepted({ ...PLAIN, priority: 9 }).priority, 9)
    for (const priority of [-1, 10, 1.5, Number.NaN, '1'])
      refused({ ...PLAIN, priority }, 'priority', /0 .* to 9/)
  })

  it('has a whole template version from 1', () => {
    for (const version of [0, 1.5, 2 ** 31]) {
      refused({ ...TEMPLATED, template: { id: 'a', version } }, 'template.version', /from 1/)
    }
  })

  it('reports the same problem for the same input, however often it is asked', () => {
    const input = { ...PLAIN, to: ['@'], priority: 11, stream: '?' }
    assert.deepEqual(problem(input), problem(structuredClone(input)))
  })
})

describe('addresses', () => {
  it('are checked in every field, by place in a list', () => {
    for (const field of ['from', 'to', 'cc', 'bcc', 'reply_to']) {
      refused({ ...PLAIN, [field]: 'a@-b.c' }, field, /starts with a hyphen; use an address like/)
    }
    refused({ ...PLAIN, cc: ['a@b.c', 'x'] }, 'cc[1]', /has no `@`/)
  })

  it('number at most the limit in to, cc and bcc together', () => {
    const list = (length: number) => Array.from({ length }, (_, index) => `a${index}@b.c`)
    assert.equal(accepted({ ...PLAIN, to: list(20), cc: list(20), bcc: list(10) }).bcc.length, 10)
    refused({ ...PLAIN, to: list(51) }, 'to', /51 entries.*at most 50/)
    refused({ ...PLAIN, to: list(20), cc: list(31) }, 'cc', /51 addresses.*at most 50/)
    refused({ ...PLAIN, to: list(20), cc: list(20), bcc: list(11) }, 'bcc', /at most 50/)
    refused({ ...PLAIN, reply_to: list(51) }, 'reply_to', /at most 50/)
    refused({ ...PLAIN, cc: list(1) }, 'cc', /at most 1/, { ...DEFAULT_MESSAGE_LIMITS, maxRecipients: 1 })
  })
})

describe('content', () => {
  it('is not given together with a template', () => {
    refused({ ...PLAIN, template: { id: 'a' } }, 'text', /leave out `text` or `template`/)
    refused({ ...PLAIN, html: '', template: { id: 'a' } }, 'html', /leave out `html`/)
  })

  it('is not empty in all its parts', () => {
    refused({ ...PLAIN, text: '' }, 'text', /empty/)
    refused({ ...PLAIN, html: '', text: '' }, 'html', /empty/)
  })

  it('is bounded in UTF-8 bytes, not in characters', () => {
    const limits = { ...DEFAULT_MESSAGE_LIMITS, maxBodyBytes: 8 }
    assert.equal(accepted({ ...PLAIN, text: 'ääää' }, limits).text, 'ääää')
    refused({ ...PLAIN, text: 'ääääa' }, 'text', /larger than 8 bytes/, limits)
    refused({ ...PLAIN, html: '€€€' }, 'html', /larger than 8 bytes/, limits)
  })

  it('has no NUL and no lone surrogate, and is never repeated in the problem', () => {
    refused({ ...PLAIN, text: 'secret\0' }, 'text', /NUL/)
    refused({ ...PLAIN, html: 'secret\udc00' }, 'html', /surrogate/)
    assert.doesNotMatch(problem({ ...PLAIN, text: 'secret\0' }).message, /secret/)
  })
})

describe('the subject', () => {
  it('is trimmed', () => assert.equal(accepted({ ...PLAIN, subject: ' Hi ' }).subject, 'Hi'))

  it('is one line', () => {
    for (const end of ['\r', '\n', '\u0085', '\u2028']) {
      refused({ ...PLAIN, subject: `Hi${end}` }, 'subject', /line break/)
    }
    for (const end of ['\t', '\u0007', '\u007f', '\u009b']) {
      refused({ ...PLAIN, subject: `Hi${end}` }, 'subject', /control character/)
    }
  })

  it('has at most 998 characters', () => {
    assert.equal(accepted({ ...PLAIN, subject: 'x'.repeat(998) }).subject?.length, 998)
    refused({ ...PLAIN, subject: 'x'.repeat(999) }, 'subject', /999 characters long.*998/)
  })
})

describe('headers', () => {
  const withHeaders = (headers: unknown) => ({ ...PLAIN, headers })

  it('may be any others than the reserved ones, in the spelling given', () => {
    const headers = {
      'List-Unsubscribe': '<https://example.com/u>',
      'x-entity-ref-id': '7',
      References: '<a@b>',
    }
    assert.deepEqual(accepted(withHeaders(headers)).headers, headers)
  })

  it('that have a field of their own point to it, in any case', () => {
    const own = { From: 'from', TO: 'to', cc: 'cc', Bcc: 'bcc', 'Reply-To': 'reply_to', SUBJECT: 'subject' }
    for (const [name, field] of Object.entries(own)) {
      refused(withHeaders({ [name]: 'a' }), `headers.${name}`, new RegExp(`use the field \`${field}\``))
    }
  })

  const reserved = [
    'Sender',
    'Return-Path',
    'Received',
    'DKIM-Signature',
    'ARC-Seal',
    'Content-Type',
    'content-transfer-encoding',
    'MIME-Version',
    'Message-ID',
    'Date',
    'Resent-To',
    'X-Sluice-Id',
    'Authentication-Results',
  ]
  for (const name of reserved) {
    it(`may not include ${name}, in any case`, () => {
      for (const spelling of [name, name.toUpperCase(), name.toLowerCase()]) {
        refused(withHeaders({ [spelling]: 'a' }), `headers.${spelling}`, /write this header/)
      }
    })
  }

  it('have names that are field-name tokens of at most 76 characters', () => {
    assert.ok(accepted(withHeaders({ [`X-${'a'.repeat(74)}`]: 'b' })))
    refused(withHeaders({ [`X-${'a'.repeat(75)}`]: 'b' }), `headers.X-${'a'.repeat(58)}…`, /77 characters/)
    for (const name of ['X A', 'X:', 'X-é', 'From(x)', '"X"']) {
      refused(withHeaders({ [name]: 'b' }), `headers.${name}`, /not a header name/)
    }
    refused(withHeaders({ '': 'b' }), 'headers.""', /not a header name/)
  })

  it('are not given twice in different case', () =>
    refused(withHeaders({ 'X-Thing': 'a', 'x-thing': 'b' }), 'headers.x-thing', /twice/))

  it('have values of one line, not empty, of at most 4,000 characters', () => {
    refused(withHeaders({ 'X-Thing': 'a\r\nBcc: x@y.z' }), 'headers.X-Thing', /line break/)
    refused(withHeaders({ 'X-Thing': ' ' }), 'headers.X-Thing', /empty/)
    refused(withHeaders({ 'X-Thing': 'a'.repeat(4_001) }), 'headers.X-Thing', /4001 characters/)
  })

  it('number at most 50', () => {
    const headers = (length: number) => Object.fromEntries(Array.from({ length }, (_, i) => [`X-${i}`, 'a']))
    assert.equal(Object.keys(accepted(withHeaders(headers(50))).headers).length, 50)
    refused(withHeaders(headers(51)), 'headers', /51 entries/)
  })
})

describe('tags', () => {
  it('are made of ASCII letters, digits, underscores and hyphens', () => {
    for (const bad of ['', 'a b', 'é', 'a\n', 'x'.repeat(257)]) {
      refused({ ...PLAIN, tags: [{ name: bad, value: 'v' }] }, 'tags[0].name', /1 to 256 ASCII/)
      refused({ ...PLAIN, tags: [{ name: 'n', value: bad }] }, 'tags[0].value', /1 to 256 ASCII/)
    }
  })

  it('number at most 50, also when each of a million is wrong', () => {
    refused({ ...PLAIN, tags: Array(51).fill({ name: 'a', value: 'b' }) }, 'tags', /51 entries/)
    refused({ ...PLAIN, tags: Array(1_000_000).fill(1) }, 'tags', /1000000 entries/)
  })
})

describe('metadata', () => {
  it('may hold any text', () =>
    assert.deepEqual(accepted({ ...PLAIN, metadata: { 'a b': 'c\n😀' } }).metadata, { 'a b': 'c\n😀' }))

  it('is bounded in entries, names and values', () => {
    const many = Object.fromEntries(Array.from({ length: 51 }, (_, index) => [`k${index}`, 'v']))
    refused({ ...PLAIN, metadata: many }, 'metadata', /51 entries/)
    refused({ ...PLAIN, metadata: { '': 'v' } }, 'metadata.""', /0 characters/)
    refused(
      { ...PLAIN, metadata: { ['k'.repeat(129)]: 'v' } },
      `metadata.${'k'.repeat(60)}…`,
      /129 characters/,
    )
    refused({ ...PLAIN, metadata: { k: 'v'.repeat(1_025) } }, 'metadata.k', /1025 characters/)
  })

  it('has no NUL or lone surrogate in names or values', () => {
    refused({ ...PLAIN, metadata: { 'k\0': 'v' } }, 'metadata.k\ufffd', /NUL/)
    refused({ ...PLAIN, metadata: { k: '\ud800' } }, 'metadata.k', /surrogate/)
  })
})

describe('template variables', () => {
  it('are plain JSON of any shape, null included', () => {
    const variables = { a: [1, { b: null }], c: true, d: 'text\n', e: -1.5e-7 }
    assert.deepEqual(accepted(withVariables(variables)).template?.variables, variables)
  })

  it('have no NUL or lone surrogate at any depth, in values or keys', () => {
    const items = [{}, {}, {}, { name: 'a\0' }]
    refused(withVariables({ items }), 'template.variables.items[3].name', /NUL/)
    refused(withVariables({ a: { 'b\ud800': 1 } }), 'template.variables.a', /surrogate/)
  })

  it('have no number that JSON cannot write', () =>
    refused(withVariables(JSON.parse('{"a":1e999}')), 'template.variables.a', /Infinity/))

  it('are nested at most 20 levels deep', () => {
    const nested = (levels: number) => JSON.parse(`${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`)
    assert.ok(accepted(withVariables(nested(20))))
    refused(withVariables(nested(21)), `template.variables${'.a'.repeat(20)}`, /20 levels/)
    assert.equal(problem(withVariables(nested(100_000))).name, 'validation_error')
  })

  it('are bounded in bytes of JSON', () => {
    const limits = { ...DEFAULT_MESSAGE_LIMITS, maxVariablesBytes: 100 }
    assert.ok(accepted(withVariables({ a: 'x'.repeat(80) }), limits))
    refused(withVariables({ a: 'ä'.repeat(50) }), 'template.variables', /more than 100 bytes/, limits)
    refused(withVariables({ a: Array(50).fill(1) }), 'template.variables', /more than 100 bytes/, limits)
  })

  it('that refer to themselves are refused, not followed for ever', () => {
    const loop: unknown[] = []
    loop.push(loop, loop)
    assert.equal(problem(withVariables({ loop })).name, 'validation_error')
  })

  it('are no values that JSON does not have', () => {
    for (const value of [undefined, 1n, Symbol('a'), () => 1, new Date(0), new Map()]) {
      refused(withVariables({ value }), 'template.variables.value', /not JSON/)
    }
  })
})

describe('keys that mean something to JavaScript', () => {
  it('named __proto__ are refused in every object, and never vanish', () => {
    const proto = JSON.parse('{"__proto__":"x"}')
    const merged = (rest: object) => Object.assign(JSON.parse('{"__proto__":{"from":"a@b.c"}}'), rest)
    refused({ ...PLAIN, headers: proto }, 'headers.__proto__', /reserved/)
    refused({ ...PLAIN, metadata: proto }, 'metadata.__proto__', /reserved/)
    refused(withVariables(proto), 'template.variables.__proto__', /reserved/)
    refused(withVariables({ a: [proto] }), 'template.variables.a[0].__proto__', /reserved/)
    refused(merged(PLAIN), '__proto__', /no such field/)
    refused({ ...TEMPLATED, template: merged({ id: 'a' }) }, 'template.__proto__', /no such field/)
    refused({ ...PLAIN, tags: [merged({ name: 'a', value: 'b' })] }, 'tags[0].__proto__', /no such field/)
  })

  it('named constructor or prototype are data like any other', () => {
    const data = { constructor: 'Ferrari', prototype: 'F1', toString: 'x' }
    assert.deepEqual(accepted({ ...PLAIN, metadata: data }).metadata, data)
    assert.deepEqual(accepted({ ...PLAIN, headers: data }).headers, data)
    assert.deepEqual(accepted(withVariables(data)).template?.variables, data)
    refused({ ...PLAIN, constructor: 'x' }, 'constructor', /no such field/)
    assert.equal(({} as Record<string, unknown>).prototype, undefined)
  })
})

describe('a problem', () => {
  it('repeats at most 60 characters of what was given, and no control characters', () => {
    const found = problem({ ...PLAIN, [`x\0\ud800${'y'.repeat(10_000)}`]: 1 })
    assert.ok((found.field?.length ?? 0) <= 61)
    assert.ok(found.message.isWellFormed() && !found.message.includes('\0'))
    assert.ok(found.message.length < 500)
  })
})
