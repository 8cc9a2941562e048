import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import type { RenderResult, TemplateSource } from '../../src/processing/render/contract.ts'
import { createRenderPool } from '../../src/processing/render/render-pool.ts'

const pool = createRenderPool()
after(() => pool.stop())

let versions = 0

type Sources = Readonly<Record<string, string | { html: string | null; text: string | null }>>

function partialsOf(sources: Sources) {
  return Object.entries(sources).map(([name, source]) =>
    typeof source === 'string' ? { name, html: source, text: source } : { name, ...source },
  )
}

async function render(
  source: Partial<TemplateSource>,
  variables: Record<string, unknown> = {},
): Promise<RenderResult> {
  versions += 1
  const template = { subject: null, html: null, text: null, ...source, key: `shown@${versions}` }
  const { results } = await pool.render([{ id: 'one', template, variables }])
  const [result] = results
  assert.ok(result)
  return result
}

async function renderHtml(html: string, sources: Sources, variables: Record<string, unknown> = {}) {
  const result = await render({ html, partials: partialsOf(sources) }, variables)
  assert.ok(result.ok, JSON.stringify(result))
  return result.rendered.html
}

async function missingFrom(
  html: string,
  variables: Record<string, unknown> = {},
  more: Partial<TemplateSource> = {},
) {
  const result = await render({ html, onMissing: 'list', ...more }, variables)
  assert.ok(result.ok, JSON.stringify(result))
  return result.missing
}

async function failureOf(source: Partial<TemplateSource>, variables: Record<string, unknown> = {}) {
  const result = await render(source, variables)
  assert.ok(!result.ok, JSON.stringify(result))
  return result
}

describe('render', () => {
  test('puts in another template, which sees only what it is given', async () => {
    const sources = { card: '<b>{{ title }}</b>{{ secret }}' }
    const html = await renderHtml('{% render "card", title: name %}!', sources, {
      name: 'A & B',
      secret: 's',
    })
    assert.equal(html, '<b>A &amp; B</b>!')
  })

  test('takes a value under its name or another, and goes through a list', async () => {
    const sources = {
      item: '{{ forloop.index }}:{{ item }}{{ it }}{% unless forloop.last %},{% endunless %}',
    }
    const variables = { list: ['a', 'b'], one: 'c' }
    assert.equal(await renderHtml('{% render "item" for list as it %}', sources, variables), '1:a,2:b')
    assert.equal(await renderHtml('{% render "item" for list %}', sources, variables), '1:a,2:b')
    assert.equal(await renderHtml('{% render "item" with one as it %}', sources, variables), ':c,')
    assert.equal(await renderHtml('{% render "item" for nothing as it %}', sources, variables), '')
  })

  test('uses the html of a template in html, and its text in text and subject', async () => {
    const partials = partialsOf({ name: { html: '<i>{{ n }}</i>', text: '{{ n }}' } })
    const tag = '{% render "name", n: "<x>" %}'
    const result = await render({ subject: tag, html: tag, text: tag, partials })
    assert.ok(result.ok)
    assert.deepEqual(result.rendered, { subject: '<x>', html: '<i>&lt;x&gt;</i>', text: '<x>' })
  })

  test('changes nothing outside, and break ends only the partial', async () => {
    const sources = { p: '{% assign a = 2 %}{{ a }}{% break %}never' }
    assert.equal(
      await renderHtml('{% assign a = 1 %}{% render "p" %}{% render "p" %}{{ a }}', sources),
      '221',
    )
  })

  test('of what is not there, or lacks the part, names it', async () => {
    const unknown = await failureOf({ html: '{% render "nobody" %}' })
    assert.equal(unknown.code, 'template_partial_missing')
    assert.match(unknown.reason, /no template named "nobody"/)
    const bare = await failureOf({
      text: '{% render "p" %}',
      partials: partialsOf({ p: { html: 'x', text: null } }),
    })
    assert.equal(bare.code, 'template_partial_missing')
    assert.match(bare.reason, /"p" has no text/)
  })

  test('of a template that does not parse says in which file and line', async () => {
    const failure = await failureOf({ html: '{% render "p" %}', partials: partialsOf({ p: 'a\n{% if %' }) })
    assert.equal(failure.code, 'template_syntax')
    assert.match(failure.reason, /file:p, line:2/)
  })

  test('stands for itself, not in a liquid tag', async () => {
    const failure = await failureOf({
      html: '{% liquid\nrender "p"\n%}',
      partials: partialsOf({ p: 'x' }),
    })
    assert.match(failure.reason, /tag of its own/)
  })
})

describe('layout', () => {
  const base = '<h1>{% block title %}Shop{% endblock %}</h1>{% block %}{% endblock %}<p>{{ year }}</p>'

  test('has its blocks filled, and keeps what it has for the others', async () => {
    const html = '{% layout "base", year: 2026 %}{% block title %}Hi {{ name }}{% endblock %}'
    assert.equal(await renderHtml(html, { base }, { name: '<A>' }), '<h1>Hi &lt;A&gt;</h1><p>2026</p>')
    assert.equal(await renderHtml('{% layout "base" %}', { base }), '<h1>Shop</h1><p></p>')
  })

  test('has what stands outside of blocks in the block without a name', async () => {
    assert.equal(
      await renderHtml('{% layout "base" %}{% assign x = 1 %}<i>{{ x }}</i>', { base }),
      '<h1>Shop</h1><i>1</i><p></p>',
    )
  })

  test('without a block for it does not lose what stands outside of blocks', async () => {
    const sources = { bare: '<h1>{% block title %}Shop{% endblock %}</h1>{{ content }}' }
    const failure = await failureOf({
      html: '{% layout "bare" %}{% block title %}T{% endblock %}<p>Read on.</p>',
      partials: partialsOf(sources),
    })
    assert.equal(failure.code, 'template_failed')
    assert.match(failure.reason, /outside of blocks has no place in the layout "bare"; put \{% block %\}/)
    // White space is not missed, and a layout of the layout may have the place.
    assert.equal(
      await renderHtml('{% layout "bare" %}\n{% block title %}T{% endblock %}\n', sources),
      '<h1>T</h1>',
    )
    const nested = { base, middle: '{% layout "base" %}{% block title %}M{% endblock %}' }
    assert.equal(await renderHtml('{% layout "middle" %}<i>x</i>', nested), '<h1>M</h1><i>x</i><p></p>')
  })

  test('may have a layout, which the innermost fills first', async () => {
    const sources = {
      base,
      order: '{% layout "base" %}{% block title %}Order {% block number %}?{% endblock %}{% endblock %}',
    }
    assert.equal(
      await renderHtml('{% layout "order" %}{% block number %}7{% endblock %}', sources),
      '<h1>Order 7</h1><p></p>',
    )
    assert.equal(
      await renderHtml('{% layout "order" %}{% block title %}T{% endblock %}', sources),
      '<h1>T</h1><p></p>',
    )
  })

  test('is not closed by a block that is left open', async () => {
    const failure = await failureOf({
      html: '{% layout "base" %}{% block title %}',
      partials: partialsOf({ base }),
    })
    assert.match(failure.reason, /not closed/)
  })
})

describe('a variable that is missing', () => {
  test('is listed once, with its path', async () => {
    assert.deepEqual(
      await missingFrom('{{ a }}{{ a }}{{ order.total }}{{ order.id | append: b }}', { order: { id: 1 } }),
      ['a', 'order.total', 'b'],
    )
  })

  test('is one wherever its value is used', async () => {
    assert.deepEqual(await missingFrom('{% for i in list %}{% endfor %}'), ['list'])
    assert.deepEqual(await missingFrom('{% assign x = a | upcase %}{{ x }}'), ['a'])
    assert.deepEqual(await missingFrom('{% echo a %}'), ['a'])
    assert.deepEqual(await missingFrom('{{ b | default: a }}'), ['a'])
    assert.deepEqual(
      await missingFrom('{% render "p", a: a %}', {}, { partials: partialsOf({ p: '{{ a }}{{ c }}' }) }),
      ['a', 'c'],
    )
  })

  test('is none when the template only asks for it', async () => {
    assert.deepEqual(
      await missingFrom(
        '{% if a %}{{ a }}{% elsif b and c.d == 1 %}{% endif %}{% unless e %}{% endunless %}{% case f %}{% when 1 %}{% endcase %}',
      ),
      [],
    )
    assert.deepEqual(await missingFrom('{{ a | default: "x" }}{% assign b = c | default: 1 %}{{ b }}'), [])
  })

  test('is none when it is null, empty or false', async () => {
    assert.deepEqual(await missingFrom('{{ a }}{{ b }}{{ c }}', { a: null, b: '', c: false }), [])
  })

  test('fails a strict template, all of them named over all parts', async () => {
    const failure = await failureOf({
      subject: '{{ a }}',
      html: '{{ b }}',
      text: '{{ c }}',
      onMissing: 'fail',
    })
    assert.equal(failure.code, 'template_missing_variable')
    assert.match(failure.reason, /a, b, c/)
    assert.equal((await render({ html: '{{ b }}', onMissing: 'fail' }, { b: 1 })).ok, true)
  })
})

describe('a declared variable', () => {
  const declared = [
    { key: 'name', type: 'string', fallback_value: 'friend' },
    { key: 'total', type: 'number', fallback_value: null },
  ] as const

  test('has its fallback when it is absent or null', async () => {
    for (const variables of [{ total: 1 }, { name: null, total: 1 }]) {
      const result = await render({ html: '{{ name }} {{ total }}', variables: declared }, variables)
      assert.deepEqual(result.ok && result.rendered.html, 'friend 1')
    }
    assert.deepEqual(await missingFrom('{{ name }}', { total: 1 }, { variables: declared }), [])
  })

  test('without a fallback is missing even when it is not used', async () => {
    assert.deepEqual(await missingFrom('x', {}, { variables: declared }), ['total'])
  })

  test('of type number that is none fails a strict template, and is rendered as given otherwise', async () => {
    const source = { html: '{{ total }}', variables: declared }
    const failure = await failureOf({ ...source, onMissing: 'fail' }, { total: 'many' })
    assert.equal(failure.code, 'template_failed')
    assert.match(failure.reason, /"total"/)
    const lax = await render(source, { total: 'many' })
    assert.deepEqual(lax.ok && lax.rendered.html, 'many')
    const text = await render({ ...source, onMissing: 'fail' }, { total: '12.50' })
    assert.deepEqual(text.ok && text.rendered.html, '12.50')
  })
})

test('three braces, as Resend writes them, are two: escaped, and with their place kept', async () => {
  assert.equal(await renderHtml('{{{NAME}}} {{{ a.b }}}', {}, { NAME: '<x>', a: { b: 1 } }), '&lt;x&gt; 1')
  const failure = await failureOf({ html: '{{{NAME}}} {{ x | nothing }}' })
  assert.match(failure.reason, /col:1[0-9]/)
})

test('a preview lists what is missing, and its source is not kept', async () => {
  const source = { key: 'preview', subject: null, html: '{{ a }}', text: null, onMissing: 'list' } as const
  assert.deepEqual(await pool.preview(source, {}), { ok: true, rendered: { html: '' }, missing: ['a'] })
  const other = await pool.preview({ ...source, html: '{{ b }}!' }, { b: 1 })
  assert.deepEqual(other, { ok: true, rendered: { html: '1!', text: '1!' }, missing: [] })
})
