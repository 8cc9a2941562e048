import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { showsWords } from '../../src/processing/postal-address.ts'

const ADDRESS = 'Tea & Sons Ltd.\n1 Main St, Köln'

function inHtml(html: string): boolean {
  return showsWords({ html, text: undefined }, ADDRESS)
}

test('an address is found however its lines, commas, capitals and tags stand', () => {
  for (const html of [
    '<p>Tea &amp; Sons Ltd.\n1 Main St, Köln</p>',
    '<p>TEA &amp; SONS LTD.<br>1 Main St<br>Ko\u0308ln</p>',
    '<td>Tea &#38; Sons&nbsp;Ltd &middot; 1&#x20;Main St</td><td>K&#xF6;ln</td>',
    '<!-- foot --><b>Tea</b> & <i title="x">Sons</i> Ltd, 1 Main St, Köln<style>p {}</style>',
  ]) {
    assert.ok(inHtml(html), html)
  }
  assert.ok(showsWords({ html: undefined, text: 'Tea & Sons Ltd.\r\n1 Main St\r\nKöln' }, ADDRESS))
})

test('what no reader sees does not count', () => {
  for (const html of [
    '',
    '<p>Tea &amp; Sons Ltd.</p>',
    '<!-- Tea & Sons Ltd. 1 Main St, Köln -->',
    '<!-- never closed Tea & Sons Ltd. 1 Main St, Köln',
    '<p title="Tea & Sons Ltd. 1 Main St, Köln">x</p>',
    '<STYLE>Tea & Sons Ltd. 1 Main St, Köln</STYLE>',
    '<title>Tea & Sons Ltd. 1 Main St, Köln</title>',
  ]) {
    assert.ok(!inHtml(html), html)
  }
})

test('both bodies must show it, and there must be one', () => {
  const shown = 'Tea and Sons Ltd. 1 Main St'
  assert.ok(showsWords({ html: shown, text: shown }, shown))
  assert.ok(!showsWords({ html: shown, text: 'Hi' }, shown))
  assert.ok(!showsWords({ html: 'Hi', text: shown }, shown))
  assert.ok(!showsWords({ html: undefined, text: undefined }, shown))
})

test('HTML of any kind is read to its end', () => {
  const hostile = ['<', '<!--', '<style', '<title>', '<a "', '&#', '&#x0', '<>', '</style']
  for (const each of hostile) assert.ok(!inHtml(each.repeat(500_000)), each)
  const piece = fc.oneof(fc.constantFrom(...hostile, '>', '-->', '&#1114112;', '&#xD800;'), fc.string())
  fc.assert(
    fc.property(fc.array(piece), fc.array(piece), (before, after) => {
      inHtml([...before, ...after].join(''))
      const shown = `${before.join('').replaceAll(/[<&]/g, '')}<p>${ADDRESS}</p>${after.join('')}`
      assert.ok(inHtml(shown))
    }),
  )
})
