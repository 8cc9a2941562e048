import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import fc from 'fast-check'
import PostalMime from 'postal-mime'
import { createRenderPool } from '../../src/processing/render/render-pool.ts'
import { createTestDatabase } from '../support/database.ts'
import { post } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { sluiceIdOf } from '../support/sunk-mail.ts'

const pool = createRenderPool()
after(() => pool.stop())

async function textOf(html: string): Promise<string | undefined> {
  const [text] = await pool.deriveTexts([html])
  return text
}

describe('the text made of HTML', () => {
  const cases: readonly (readonly [string, string, string | undefined])[] = [
    ['paragraphs', '<p>One</p><p>Two<br>Three</p>', 'One\n\nTwo\nThree'],
    [
      'a link',
      'See <a href="https://a.test/?x=1&amp;y=2">the site</a>.',
      'See the site [https://a.test/?x=1&y=2].',
    ],
    ['a link that shows itself', '<a href="https://a.test/">https://a.test/</a>', 'https://a.test/'],
    ['an address', '<a href="mailto:a@b.test">a@b.test</a>', 'a@b.test'],
    ['a link within the mail', '<a href="#top">Up</a>', 'Up'],
    ['an image', '<img src="cid:logo" alt="The Shop"> sells', 'The Shop sells'],
    [
      'an image in a link',
      '<a href="https://a.test/"><img src="x" alt="Shop"></a>',
      'Shop [https://a.test/]',
    ],
    ['an image without words', '<img src="https://a.test/pixel.gif">', undefined],
    [
      'a table',
      '<table><tr><th>Tea</th><td>2</td></tr><tr><td>Milk</td><td>1</td></tr></table>',
      'Tea 2\nMilk 1',
    ],
    ['a layout', '<table><tr><td><p>Left</p></td><td><p>Right</p></td></tr></table>', 'Left\n\nRight'],
    ['a heading', '<h1>Größe</h1><p>x</p>', 'Größe\n\nx'],
    ['lists', '<ul><li>a</li><li>b</li></ul><ol><li>c</li></ol>', '* a\n * b\n\n 1. c'],
    ['a long line', `<p>${'word '.repeat(500)}</p>`, 'word '.repeat(500).trim()],
    ['entities and hard spaces', '12&nbsp;&euro; &lt;b&gt; &amp;', '12 € <b> &'],
    ['what is hidden', '<div style="display:none">Preview</div><p hidden>x</p>Body', 'Body'],
    ['scripts, styles and a title', '<title>T</title><style>p{}</style><script>x()</script>Body', 'Body'],
    ['a whole page', '<html><head><title>T</title></head><body><p>Body</p></body></html>', 'Body'],
    ['tags that never close', '<div><b>a<i>b<p>c', 'ab\n\nc'],
    ['nothing', '  <p>&nbsp;</p> ', undefined],
  ]
  for (const [what, html, expected] of cases) {
    test(`of ${what}`, async () => assert.equal(await textOf(html), expected))
  }

  test('comes in the order asked, also for HTML that occurs twice', async () => {
    const htmls = ['<p>a</p>', '<p>b</p>', '<p>a</p>', '', 'c']
    assert.deepEqual(await pool.deriveTexts(htmls), ['a', 'b', 'a', undefined, 'c'])
    assert.deepEqual(await pool.deriveTexts([]), [])
  })

  test('is not made of HTML that is too large or has too many tags', async () => {
    assert.equal(await textOf(`<p>${'x'.repeat(600_000)}</p>`), undefined)
    assert.equal(await textOf('<br>'.repeat(40_000)), undefined)
    assert.deepEqual(
      (await pool.deriveTexts(Array.from({ length: 8 }, (_, n) => `${n}${'x'.repeat(400_000)}`))).map(
        (text) => text?.length,
      ),
      Array.from({ length: 8 }, () => 400_001),
    )
  })

  test('is made of any HTML, or none is', async () => {
    const tag = fc.constantFrom(
      '<p>',
      '</p>',
      '<td>',
      '<a href="',
      '">',
      '<!--',
      '-->',
      '<',
      '&#0;',
      '&#xd800;',
      '<![CDATA[',
      ']]>',
      '<style>',
      '<pre>',
      '\0',
      'x',
      ' ',
    )
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(tag, fc.string({ unit: 'binary' })), { maxLength: 60 }),
        async (parts) => {
          const text = await textOf(parts.join(''))
          assert.ok(
            text === undefined || (text.isWellFormed() && !text.includes('\0') && text.trim() === text),
          )
        },
      ),
      { numRuns: 100 },
    )
  })
})

/** Nested so deep, with so many ends that end nothing, that it takes several times the limit of the test. */
const ENDLESS = '<b>'.repeat(15_000) + '</p>'.repeat(14_900)

test('HTML that the converter does not get through costs its mail the text, and nobody anything else', async (t) => {
  const strict = createRenderPool({ hardStopMs: 120 })
  t.after(() => strict.stop())
  const [endless, fine, again] = await strict.deriveTexts([`${ENDLESS}x`, '<p>fine</p>', `${ENDLESS}x`])
  assert.deepEqual([endless, fine, again], [undefined, 'fine', undefined])

  const template = { key: 'wild@1', subject: 'S', html: '<p>Hi</p>{{ html | raw }}', text: null }
  const render = (id: string, html: string) => ({ id, template, variables: { html }, derivesText: true })
  const { results, deferred } = await strict.render([
    render('a', ENDLESS),
    render('b', 'b'),
    render('c', ENDLESS),
  ])
  const seen = [...results.map(({ id }) => id), ...deferred].toSorted()
  assert.deepEqual(seen, ['a', 'b', 'c'])
  for (const result of results) assert.ok(result.ok, JSON.stringify(result).slice(0, 200))
})

test('a template without text gets one of its HTML, when that is asked for', async () => {
  const template = { key: 'rich@1', subject: null, html: '<p>Hi {{ who }}</p>', text: null }
  const request = { id: 'a', template, variables: { who: 'A & B' } }
  const derived = await pool.render([{ ...request, derivesText: true }])
  assert.deepEqual(derived.results[0], {
    id: 'a',
    ok: true,
    rendered: { html: '<p>Hi A &amp; B</p>', text: 'Hi A & B' },
  })
  const plain = await pool.render([request])
  assert.ok(plain.results[0]?.ok && plain.results[0].rendered.text === undefined)
  const own = { ...template, key: 'both@1', text: '' }
  const kept = await pool.render([{ ...request, template: own, derivesText: true }])
  assert.ok(kept.results[0]?.ok && kept.results[0].rendered.text === '')
})

test('mail with HTML alone goes out with a text part, unless an empty text says that it shall not', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const html = '<p>Your order is <a href="https://shop.test/1">on its way</a>.</p>'
  const literal = await post(service, { html, text: undefined })
  const without = await post(service, { html, text: '' })
  const own = await post(service, { html, text: 'Mine' })
  const draft = { name: 'rich', subject: 'S', html: '<p>For {{ who }}</p>' }
  assert.equal((await service.request('/templates', { body: draft })).status, 200)
  assert.equal((await service.request('/templates/rich/publish', { body: {} })).status, 200)
  const template = { id: 'rich', variables: { who: 'Ann' } }
  const rendered = await post(service, { html: undefined, text: undefined, template })
  const mails = await sink.waitForMails(4)
  const parsed = new Map(
    await Promise.all(
      mails.map(async (mail) => [sluiceIdOf(mail), await PostalMime.parse(mail.raw)] as const),
    ),
  )
  const textAt = (id: string) => parsed.get(id)?.text?.trim()
  assert.equal(textAt(literal), 'Your order is on its way [https://shop.test/1].')
  assert.equal(textAt(own), 'Mine')
  assert.equal(textAt(rendered), 'For Ann')
  assert.equal(parsed.get(literal)?.html?.trim(), html)
  const raw = mails.find((mail) => sluiceIdOf(mail) === without)?.raw.toString()
  assert.doesNotMatch(raw ?? '', /text\/plain|multipart/)
})
