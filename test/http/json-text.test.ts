import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { jsonFault } from '../../src/http/json-text.ts'

/** JSON as text together with whether an object in it has a key twice, made without any parser. */
const json = fc.letrec<{ value: Made; list: Made; object: Made; leaf: Made }>((tie) => ({
  value: fc.oneof({ depthSize: 'small', withCrossShrink: true }, tie('leaf'), tie('list'), tie('object')),
  leaf: fc
    .oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom('\\', '"', '{"a":1,"a":2}', '\\"', ',', '}'),
      fc.double(),
    )
    .map((leaf) => ({ text: JSON.stringify(leaf) ?? 'null', isTwice: false })),
  list: fc.array(tie('value'), { maxLength: 4 }).map((members) => ({
    text: `[${members.map(({ text }) => text).join(' ,')}]`,
    isTwice: members.some(({ isTwice }) => isTwice),
  })),
  object: fc
    .array(fc.tuple(fc.constantFrom('a', 'b', '"', '\\', 'é', 'to'), fc.boolean(), tie('value')), {
      maxLength: 4,
    })
    .map((members) => ({
      text: `{ ${members.map(([key, isEscaped, { text }]) => `${written(key, isEscaped)} : ${text}`).join(',')}\n}`,
      isTwice:
        new Set(members.map(([key]) => key)).size < members.length ||
        members.some(([, , { isTwice }]) => isTwice),
    })),
}))
type Made = { text: string; isTwice: boolean }

function written(key: string, isEscaped: boolean): string {
  if (!isEscaped) return JSON.stringify(key)
  return `"${[...key].map((char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`).join('')}"`
}

describe('a key given twice', () => {
  test('is found wherever it stands and however it is written, and nothing else is taken for one', () => {
    fc.assert(
      fc.property(json.value, ({ text, isTwice }) => {
        JSON.parse(text)
        assert.equal(jsonFault(text) !== undefined, isTwice, text)
      }),
      { numRuns: 2_000 },
    )
  })

  test('is found among many, and named', () => {
    const members = Array.from({ length: 200 }, (_, n) => `"key${n}":${n}`)
    assert.equal(jsonFault(`{${members.join(',')}}`), undefined)
    assert.match(jsonFault(`{${[...members, '"key7":0'].join(',')}}`) ?? '', /`key7` twice/)
  })
})

test('`__proto__` is refused as a key, and is text like any other elsewhere', () => {
  assert.match(jsonFault('{"a":{"__proto__":1}}') ?? '', /`__proto__`.*reserved/)
  assert.match(jsonFault('{"\\u005f_proto__":1}') ?? '', /`__proto__`.*reserved/)
  assert.equal(jsonFault('{"a":"__proto__","b":["__proto__"]}'), undefined)
})

test('nesting is refused past 64 levels, brackets in text not counted', () => {
  const nested = (levels: number) => `${'[{"a":'.repeat(levels / 2)}1${'}]'.repeat(levels / 2)}`
  assert.equal(jsonFault(nested(64)), undefined)
  assert.match(jsonFault(nested(66)) ?? '', /more than 64 levels/)
  assert.equal(jsonFault(JSON.stringify('['.repeat(1_000))), undefined)
})
