import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import type { RenderResult, TemplateSource } from '../../src/processing/render/contract.ts'
import { createRenderPool } from '../../src/processing/render/render-pool.ts'

const pool = createRenderPool()
after(() => pool.stop())

let versions = 0

async function render(
  parts: Partial<TemplateSource>,
  variables: Record<string, unknown> = {},
): Promise<RenderResult> {
  versions += 1
  const template = { subject: null, html: null, text: null, ...parts, key: `shown@${versions}` }
  const { results } = await pool.render([{ id: 'one', template, variables }])
  const [result] = results
  assert.ok(result)
  return result
}

async function renderText(
  text: string,
  variables: Record<string, unknown> = {},
): Promise<string | undefined> {
  const result = await render({ text }, variables)
  assert.ok(result.ok, JSON.stringify(result))
  return result.rendered.text
}

async function renderHtml(
  html: string,
  variables: Record<string, unknown> = {},
): Promise<string | undefined> {
  const result = await render({ html }, variables)
  assert.ok(result.ok, JSON.stringify(result))
  return result.rendered.html
}

describe('escaping', () => {
  const variables = { name: `<b>"Tom" & 'Ann'</b>` }

  test('HTML output is escaped, subject and text are not', async () => {
    const result = await render({ subject: '{{ name }}', html: '{{ name }}', text: '{{ name }}' }, variables)
    assert.deepEqual(result, {
      id: 'one',
      ok: true,
      rendered: {
        subject: variables.name,
        html: '&lt;b&gt;&#34;Tom&#34; &amp; &#39;Ann&#39;&lt;/b&gt;',
        text: variables.name,
      },
    })
  })

  test('`raw` opts out, but only as the last filter', async () => {
    assert.equal(await renderHtml('{{ a | raw }}', { a: '<b>' }), '<b>')
    assert.equal(await renderHtml('{{ a | raw | upcase }}', { a: '<b>' }), '&lt;B&gt;')
  })

  test('echo, cycle and arrays are escaped as well', async () => {
    assert.equal(
      await renderHtml('{% echo a %}{% cycle a, "x" %}{{ b }}', { a: '<', b: ['<', ['>']] }),
      '&lt;&lt;&lt;&gt;',
    )
  })

  test('a value escaped by its last filter is not escaped twice', async () => {
    assert.equal(await renderHtml('{{ a | escape }}{{ a | escape_once }}', { a: '<' }), '&lt;&lt;')
    assert.equal(await renderHtml('{{ a | escape | replace: "&lt;", "<" }}', { a: '<' }), '&lt;')
  })

  test('newline_to_br escapes its input and writes line breaks', async () => {
    assert.equal(await renderHtml('{{ a | newline_to_br }}', { a: '<i>\nx' }), '&lt;i&gt;<br />\nx')
  })
})

describe('an order mail', () => {
  test('missing variables render empty', async () => {
    assert.equal(await renderText('[{{ a }}{{ a.b.c }}{{ a[0].b }}{% if a %}x{% endif %}]'), '[]')
  })

  test('prices are computed and written', async () => {
    const text = '{{ price | times: count | divided_by: 100.0 | round: 2 }} {{ 0.1 | plus: 0.2 | round: 2 }}'
    assert.equal(await renderText(text, { price: 1999, count: 3 }), '59.97 0.3')
  })

  test('items are listed, counted and joined', async () => {
    const variables = { items: [{ name: 'Tea' }, { name: 'Pot' }] }
    const text =
      '{% assign n = items | size %}{{ n }} item{% unless n == 1 %}s{% endunless %}: ' +
      '{% for item in items %}{{ forloop.index }} {{ item.name }}{% unless forloop.last %}, {% endunless %}{% endfor %}' +
      ' ({{ items | map: "name" | join: "+" }})'
    assert.equal(await renderText(text, variables), '2 items: 1 Tea, 2 Pot (Tea+Pot)')
  })

  test('branches are taken by if, else and case', async () => {
    const text =
      '{% if paid %}paid{% else %}due{% endif %} {% case state %}{% when "a", "b" %}early{% else %}late{% endcase %}'
    assert.equal(await renderText(text, { paid: false, state: 'b' }), 'due early')
  })

  test('elements are chosen and grouped by property', async () => {
    const variables = {
      items: [
        { kind: 'a', n: 1 },
        { kind: 'b', n: 2 },
        { kind: 'a', n: 3 },
      ],
    }
    assert.equal(await renderText('{{ items | where: "kind", "a" | sum: "n" }}', variables), '4')
    assert.equal(
      await renderText('{% assign g = items | group_by: "kind" %}{{ g[0].items.size }}', variables),
      '2',
    )
    assert.equal(await renderText('{{ items | find: "kind", "b" | json }}', variables), '{"kind":"b","n":2}')
  })

  test('a date is shown in its own zone, in UTC when it names none, and in another on request', async () => {
    const format = '%A %a %-d %B %b %Y %H:%M %%B'
    const shown = (at: unknown, zone = '') => renderText(`{{ at | date: "${format}"${zone} }}`, { at })
    assert.equal(await shown('2025-03-01'), 'Saturday Sat 1 March Mar 2025 00:00 %B')
    assert.equal(await shown('2025-03-01 09:30'), 'Saturday Sat 1 March Mar 2025 09:30 %B')
    assert.equal(await shown('2025-03-01T23:00:00-05:00'), 'Saturday Sat 1 March Mar 2025 23:00 %B')
    assert.equal(await shown(1740787200), 'Saturday Sat 1 March Mar 2025 00:00 %B')
    assert.equal(
      await shown('2025-03-01T02:00Z', ', "America/New_York"'),
      'Friday Fri 28 February Feb 2025 21:00 %B',
    )
    assert.equal(await renderText('{{ "soon" | date: "%B" }}'), 'soon')
  })

  test('a range counts to a variable', async () => {
    assert.equal(
      await renderText('{% for i in (1..n) %}{{ i }}{% endfor %}{{ (1..3) | join: "-" }}', { n: 3 }),
      '1231-2-3',
    )
  })
})

describe('what a mail cannot carry', () => {
  const failure = async (parts: Partial<TemplateSource>, variables: Record<string, unknown> = {}) => {
    const result = await render(parts, variables)
    return result.ok ? 'rendered' : result.code
  }

  test('a subject is trimmed, and fails with a line break or control character inside', async () => {
    const result = await render({ subject: '\n Order {{ a }}\n' }, { a: 1 })
    assert.deepEqual(result, { id: 'one', ok: true, rendered: { subject: 'Order 1' } })
    for (const a of ['x\r\nBcc: y', 'x\ny', 'x\u0000y', 'x\u0085y', 'x\u2028y', 'x\u007fy']) {
      assert.equal(await failure({ subject: 'a {{ a }} b' }, { a }), 'output_invalid')
    }
  })

  test('each part has a largest length', async () => {
    assert.equal(await failure({ subject: '{{ a }}' }, { a: 'x'.repeat(998) }), 'rendered')
    assert.equal(await failure({ subject: '{{ a }}' }, { a: 'x'.repeat(999) }), 'output_too_large')
    assert.equal(await failure({ text: '{{ a }}{{ a }}' }, { a: 'x'.repeat(130_000) }), 'output_too_large')
    assert.equal(await failure({ html: '{{ a }}'.repeat(7) }, { a: 'x'.repeat(140_000) }), 'rendered')
    assert.equal(await failure({ html: '{{ a }}'.repeat(8) }, { a: 'x'.repeat(140_000) }), 'output_too_large')
  })

  test('a NUL made by a filter fails, half a character made by a filter is replaced', async () => {
    assert.equal(await failure({ text: '{{ "%00" | url_decode }}' }), 'output_invalid')
    assert.equal(await renderText('{{ "😀" | split: "" | first }}'), '\ufffd')
  })

  test('variables have a largest length and must be JSON', async () => {
    assert.equal(await failure({ text: 'x' }, { a: 'x'.repeat(262_200) }), 'variables_too_large')
    const cycle: Record<string, unknown> = {}
    cycle.self = cycle
    assert.equal(await failure({ text: 'x' }, cycle), 'variables_invalid')
    assert.equal(await failure({ text: 'x' }, { a: 1n }), 'variables_invalid')
    assert.equal(await failure({ text: 'x' }, [] as unknown as Record<string, unknown>), 'variables_invalid')
  })
})

describe('check', () => {
  const check = (parts: Partial<TemplateSource>) =>
    pool.check({ key: 'draft', subject: null, html: null, text: null, ...parts })

  test('accepts what parses', async () => {
    assert.deepEqual(await check({ subject: '{{ a }}', html: '{% if a %}b{% endif %}', text: '' }), {
      ok: true,
    })
  })

  test('names the part, line and column of what does not', async () => {
    const result = await check({ subject: 'fine', html: 'one\n two {% nonsense %}' })
    assert.ok(!result.ok)
    assert.equal(result.code, 'template_syntax')
    assert.match(result.reason, /^The html does not parse: .*nonsense.*line:2, col:6$/)
  })

  test('says why a tag or filter is not available', async () => {
    for (const text of [
      '{% capture x %}y{% endcapture %}',
      '{% include "x" %}',
      '{{ a | where_exp: "b", "c" }}',
      '{{ a | inspect }}',
    ]) {
      const result = await check({ text })
      assert.ok(!result.ok)
      assert.equal(result.code, 'template_syntax')
      assert.match(result.reason, /is not available: /)
    }
  })

  test('does not confuse drafts that share a key', async () => {
    assert.equal((await check({ text: '{{ a }}' })).ok, true)
    assert.equal((await check({ text: '{{ a' })).ok, false)
    assert.equal((await check({ text: '{{ a }}' })).ok, true)
  })

  test('refuses a source that is too long or holds too much Liquid', async () => {
    for (const text of ['x'.repeat(600_000), '{{a}}'.repeat(15_000), '{{'.repeat(40_000)]) {
      const result = await check({ text })
      assert.equal(result.ok ? 'ok' : result.code, 'template_too_large')
    }
  })
})
