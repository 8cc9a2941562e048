import assert from 'node:assert/strict'
import { test } from 'node:test'
import { field, listOf, readJson, textOf } from '../../src/feedback/read-json.ts'

test('a text comes back short, without controls and half surrogates, or not at all', () => {
  assert.equal(textOf(' a\0b\r\nc\u0085 '), 'a b c')
  assert.equal(textOf('a\ud800b'), 'a\ufffdb')
  assert.equal(textOf(`${'a'.repeat(9)}\u{1f600}`, 10), `${'a'.repeat(9)}\ufffd`)
  assert.equal(textOf('x'.repeat(5_000))?.length, 1_000)
  assert.equal(textOf(7.5), '7.5')
  for (const nothing of ['', ' \n', null, undefined, {}, [], true, Number.NaN, Number.POSITIVE_INFINITY]) {
    assert.equal(textOf(nothing), undefined)
  }
})

test('a path leads only through properties that were written', () => {
  const json = readJson('{"a":{"b":[1]},"__proto__":{"c":1}}')
  assert.deepEqual(field(json, 'a', 'b'), [1])
  assert.deepEqual(field(json, '__proto__'), { c: 1 })
  for (const path of [
    ['constructor'],
    ['a', 'toString'],
    ['a', 'b', 'length', 'x'],
    ['c'],
    ['a', 'b', 'c', 'd'],
  ]) {
    assert.equal(field(json, ...path), undefined)
  }
  assert.deepEqual(
    [field('text', 'length'), field(null, 'a'), field(undefined)],
    [undefined, undefined, undefined],
  )
})

test('what is no JSON is nothing, and what is no list is an empty one', () => {
  for (const text of ['', '{', '['.repeat(300_000), Buffer.from([0xff, 0xfe])])
    assert.equal(readJson(text), undefined)
  assert.deepEqual([listOf({ length: 2 }), listOf([1])], [[], [1]])
})
