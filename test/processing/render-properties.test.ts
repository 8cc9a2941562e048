import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { Liquid } from 'liquidjs'
import { RENDER_FAILURES } from '../../src/processing/render/contract.ts'
import { createRenderPool } from '../../src/processing/render/render-pool.ts'

const pool = createRenderPool()
after(() => pool.stop())

const fragment = fc.constantFrom(
  '{{',
  '}}',
  '{%',
  '%}',
  '{%-',
  '-%}',
  '|',
  ':',
  ',',
  '"',
  "'",
  '.',
  '[',
  ']',
  '(',
  ')',
  '..',
  '\n',
  '#',
  ' ',
  'for i in a',
  'endfor',
  'if a',
  'elsif b',
  'else',
  'endif',
  'case a',
  'when',
  'endcase',
  'assign a = ',
  'cycle ',
  'raw',
  'endraw',
  'comment',
  'endcomment',
  'liquid',
  'echo',
  'a',
  'b.c',
  '1',
  '9007199254740992',
  'nil',
  'empty',
  'append: a',
  'split: ""',
  'json',
  'date: a',
  'where: a',
  'push: a',
  'concat: a',
  'sort',
  '__proto__',
  'constructor',
)
const source = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc.array(fragment, { maxLength: 40 }).map((fragments) => fragments.join('')),
  fc
    .array(fragment, { maxLength: 12 })
    .map((fragments) => `{{ ${fragments.join(' ')} }}{% ${fragments.join(' ')} %}`),
)
let versions = 0

test('any text as a template is checked and rendered to an answer', async () => {
  await fc.assert(
    fc.asyncProperty(source, fc.jsonValue(), async (html, a) => {
      versions += 1
      const template = { key: `any@${versions}`, subject: html, html, text: html }
      const checked = await pool.check(template)
      const { results } = await pool.render([{ id: 'x', template, variables: { a } }])
      const [result] = results
      assert.ok(result)
      if (!result.ok) assert.ok(RENDER_FAILURES.includes(result.code))
      if (!checked.ok) assert.equal(!result.ok && result.code, checked.code)
    }),
    { numRuns: 1_000 },
  )
})

test('any JSON as variables renders to an answer, and nothing of it reaches HTML unescaped', async () => {
  const html =
    '{{ a }}{{ a.b }}{{ a[0] }}{{ a.size }}{{ a | first }}{{ a | json }}{{ a | join }}{{ a | upcase }}{{ a | plus: 1 }}' +
    '{{ a | date: a }}{{ a | slice: 0, 3 }}{{ a | url_encode }}{% for x in a %}{{ x }}{{ x | sort }}{% endfor %}' +
    '{% if a > 1 %}{% endif %}{% if a contains "x" %}{% endif %}{{ a | newline_to_br | strip_newlines }}'
  const template = { key: 'fixed@1', subject: null, html, text: null }
  await fc.assert(
    fc.asyncProperty(fc.jsonValue({ maxDepth: 6 }), async (a) => {
      const { results } = await pool.render([{ id: 'x', template, variables: { a } }])
      const [result] = results
      assert.ok(result)
      if (result.ok) assert.doesNotMatch(result.rendered.html ?? '', /[<>"']/)
    }),
    { numRuns: 1_000 },
  )
})

test('a path reads as the engine itself reads it, whatever it goes through', async () => {
  const path = fc
    .array(
      fc.constantFrom(
        '.a',
        '.b',
        '.size',
        '.first',
        '.last',
        '[0]',
        '[-1]',
        '["a"]',
        '[a]',
        '[x.b]',
        '["b c"]',
      ),
      {
        maxLength: 4,
      },
    )
    .map((steps) => `{{ x${steps.join('')} }}`)
  const leaf = fc.constantFrom<unknown>('text', '', 0, 1, 1.5, true, false, null, 'a', 'b')
  const value = fc.letrec<{ any: unknown }>((tie) => ({
    any: fc.oneof(
      { maxDepth: 3 },
      leaf,
      fc.array(tie('any'), { maxLength: 3 }),
      fc.record(
        { a: tie('any'), b: tie('any'), size: tie('any'), 'b c': leaf, first: leaf },
        { requiredKeys: [], noNullPrototype: true },
      ),
    ),
  })).any
  const engine = new Liquid({ ownPropertyOnly: true })
  await fc.assert(
    fc.asyncProperty(fc.array(path, { minLength: 1, maxLength: 5 }), value, leaf, async (paths, x, a) => {
      const text = paths.join('|')
      const template = { key: text, subject: null, html: null, text }
      const { results } = await pool.render([{ id: 'x', template, variables: { x, a } }])
      const [result] = results
      assert.ok(result?.ok === true, JSON.stringify(result))
      assert.equal(result.rendered.text, engine.parseAndRenderSync(text, { x, a }))
    }),
    { numRuns: 300 },
  )
})
