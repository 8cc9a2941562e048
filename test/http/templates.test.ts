import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { countLockWaits } from '../support/lock-waits.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  const sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
})

type Template = {
  id: string
  name: string
  alias: string | null
  version: number
  status: string
  published_at: string | null
  has_unpublished_versions: boolean
  current_version_id: string
  html: string | null
  text: string | null
  subject: string | null
  uses: string[]
}
type Preview = { subject: string | null; html: string | null; text: string | null; missing: string[] }

async function ask<T = Template>(path: string, options: Parameters<TestService['request']>[1] = {}) {
  const response = await service.request(path, options)
  const body = (await response.json()) as T & { name?: string; message: string }
  return { status: response.status, body }
}

async function done<T = Template>(
  path: string,
  options: Parameters<TestService['request']>[1] = {},
): Promise<T> {
  const { status, body } = await ask<T>(path, options)
  assert.equal(status, 200, body.message)
  return body
}

async function refused(path: string, body: unknown, message: RegExp, method = 'POST'): Promise<void> {
  const answer = await ask(path, { body, method })
  assert.equal(answer.status, 422, JSON.stringify(answer.body))
  assert.match(answer.body.message, message)
}

function save(draft: Record<string, unknown>): Promise<Template> {
  return done('/templates', { body: draft })
}

function change(reference: string, changes: Record<string, unknown>): Promise<Template> {
  return done(`/templates/${reference}`, { body: changes, method: 'PATCH' })
}

function publish(reference: string): Promise<Template> {
  return done(`/templates/${reference}/publish`, { method: 'POST' })
}

async function published(draft: Record<string, unknown> & { name: string }): Promise<Template> {
  const { id } = await save(draft)
  return publish(id)
}

function preview(reference: string, body: object = {}): Promise<Preview> {
  return done<Preview>(`/templates/${reference}/preview`, { body })
}

async function versionsOf(reference: string): Promise<[number, string][]> {
  const { data } = await done<{ data: Template[] }>(`/templates/${reference}/versions`)
  return data.map(({ version, status }) => [version, status])
}

describe('versions', () => {
  test('a draft is changed in place, a published version by the next one, and what is not given stays', async () => {
    const first = await save({ name: 'growing', subject: 's', text: 'one' })
    assert.deepEqual([first.version, first.status, first.published_at], [1, 'draft', null])
    const changed = await change('growing', { text: 'one, changed' })
    assert.deepEqual([changed.id, changed.version], [first.id, 1])
    await publish('growing')
    const second = await change('growing', { text: 'two' })
    assert.deepEqual([second.id, second.version, second.status], [first.id, 2, 'draft'])
    const shown = await done('/templates/growing')
    assert.deepEqual(
      [shown.text, shown.subject, shown.status, shown.has_unpublished_versions],
      ['two', 's', 'published', true],
    )
    assert.deepEqual(await versionsOf('growing'), [
      [2, 'draft'],
      [1, 'published'],
    ])
    const older = await done('/templates/growing?version=1')
    assert.deepEqual([older.text, older.version], ['one, changed', 1])
    assert.notEqual(older.current_version_id, shown.current_version_id)
    assert.equal((await ask('/templates/growing?version=3')).status, 404)
  })

  test('null takes a field away, but not the last body', async () => {
    await save({ name: 'shrinking', subject: 's', text: 'a', html: 'b' })
    await change('shrinking', { subject: null, html: null })
    const shown = await done('/templates/shrinking')
    assert.deepEqual([shown.subject, shown.html, shown.text], [null, null, 'a'])
    await refused('/templates/shrinking', { text: null }, /needs a body/, 'PATCH')
  })

  test('a published version cannot be changed or deleted, not even by SQL', async () => {
    const { id } = await published({ name: 'fixed', text: 'as it is' })
    for (const statement of [
      "update mail.template_version set text = 'other' where template_id = $1",
      'update mail.template_version set published_at = null where template_id = $1',
      'delete from mail.template_version where template_id = $1',
    ]) {
      await assert.rejects(database.query(statement, [id]), {
        code: '55000',
        message: /template fixed version 1 is published and cannot change/,
      })
    }
  })

  test('publishing again changes nothing', async () => {
    const first = await published({ name: 'twice', text: 'once' })
    assert.deepEqual(await publish('twice'), first)
  })

  test('two who publish at the same moment both publish, and a change meanwhile is the next draft', async () => {
    await save({ name: 'contested', subject: 'x', text: 'x' })
    const blocker = new Client({ connectionString: database.url })
    await blocker.connect()
    try {
      await blocker.query("begin; select from mail.latch where name = 'template' for update")
      const both = Promise.all([publish('contested'), publish('contested')])
      await eventually('both wait', async () => (await countLockWaits(blocker)) === 2)
      const changed = change('contested', { text: 'y' })
      await eventually('all three wait', async () => (await countLockWaits(blocker)) === 3)
      await blocker.query('commit')
      const [first, second] = await both
      assert.deepEqual([first.version, first.status], [1, 'published'])
      assert.deepEqual([second.version, second.status], [1, 'published'])
      assert.deepEqual([(await changed).version, (await changed).status], [2, 'draft'])
    } finally {
      await blocker.end()
    }
  })

  test('a roll back publishes what an older version holds, and the draft comes after it', async () => {
    await published({ name: 'rolled', text: 'good', variables: [{ key: 'a', type: 'string' }] })
    await change('rolled', { text: 'bad' })
    await publish('rolled')
    await change('rolled', { text: 'unfinished' })
    const back = await done('/templates/rolled/rollback', { body: { version: 1 } })
    assert.deepEqual([back.version, back.status], [3, 'published'])
    assert.equal((await done('/templates/rolled?version=3')).text, 'good')
    assert.deepEqual(await versionsOf('rolled'), [
      [4, 'draft'],
      [3, 'published'],
      [2, 'published'],
      [1, 'published'],
    ])
    // Version 3 is in use already.
    assert.equal((await done('/templates/rolled/rollback', { body: { version: 3 } })).version, 3)
    for (const version of [4, 9]) {
      await refused('/templates/rolled/rollback', { version }, /published are 1, 2, 3/)
    }
    await publish('rolled')
    assert.equal((await done('/templates/rolled')).text, 'unfinished')
  })
})

describe('names', () => {
  test('a template is found by id, alias and name, and by none of them when it is removed', async () => {
    const { id } = await published({ name: 'Greeting to a new customer', alias: 'greeting', text: 'Hi' })
    const references = [id, id.toUpperCase(), 'greeting', 'Greeting%20to%20a%20new%20customer']
    for (const reference of references) assert.equal((await done(`/templates/${reference}`)).id, id)
    const removed = await done<{ deleted: boolean; id: string }>('/templates/greeting', { method: 'DELETE' })
    assert.deepEqual([removed.id, removed.deleted], [id, true])
    for (const reference of references) {
      assert.equal((await ask(`/templates/${reference}`)).status, 404)
      assert.equal((await ask(`/templates/${reference}`, { method: 'DELETE' })).status, 404)
    }
    const again = await save({ name: 'Greeting to a new customer', alias: 'greeting', text: 'Hi' })
    assert.notEqual(again.id, id)
  })

  test('one that is taken is refused with what to do, as a name and as an alias', async () => {
    await save({ name: 'taken', alias: 'occupied', text: 'x' })
    for (const draft of [{ name: 'taken' }, { name: 'occupied' }, { name: 'free', alias: 'taken' }]) {
      await refused('/templates', { ...draft, text: 'x' }, /called `(taken|occupied)` already; .*PATCH/)
    }
    await save({ name: 'free', text: 'x' })
    await refused('/templates/free', { name: 'occupied' }, /called `occupied` already/, 'PATCH')
    await change('free', { name: 'free', alias: 'free' })
  })

  test('ten who take one name at the same moment: one gets it', async () => {
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, n) => ask('/templates', { body: { name: 'raced', text: `${n}` } })),
    )
    assert.deepEqual(answers.map(({ status }) => status).sort(), [
      200,
      ...Array.from({ length: 9 }, () => 422),
    ])
  })

  test('odd ones are names like any other', async () => {
    for (const name of [
      'a/b',
      '100% "off" & <b>',
      'ünï©ode 🙂',
      '__proto__',
      'constructor',
      '%2e%2e',
      "it's",
    ]) {
      const { id } = await save({ name, text: 'x' })
      assert.equal((await done(`/templates/${encodeURIComponent(name)}`)).id, id, name)
    }
  })

  test('a copy has a name of its own, and is a draft', async () => {
    const { id } = await published({ name: 'original', alias: 'orig', subject: 's', text: 'x' })
    const first = await done('/templates/orig/duplicate', { method: 'POST' })
    const second = await done('/templates/original/duplicate', { method: 'POST' })
    assert.deepEqual([first.name, first.alias, first.status], ['original (copy)', null, 'draft'])
    assert.equal(second.name, 'original (copy 2)')
    assert.equal(new Set([id, first.id, second.id]).size, 3)
    assert.equal((await done(`/templates/${first.id}`)).subject, 's')
    const long = await save({ name: 'n'.repeat(200), text: 'x' })
    const copy = await done(`/templates/${long.id}/duplicate`, { method: 'POST' })
    assert.equal(copy.name.length, 200)
  })

  test('a template that is not there is 404', async () => {
    for (const reference of [
      'nobody',
      '00000000-0000-4000-8000-000000000000',
      '%00',
      '%ED%A0%80',
      // No dots alone: a client takes them for the path above, where the dashboard is.
      '%2e%2e%2e',
    ]) {
      assert.equal((await ask(`/templates/${reference}`)).status, 404, reference)
      assert.equal((await ask(`/templates/${reference}/versions`)).status, 404, reference)
      for (const [verb, body] of [
        ['publish', {}],
        ['duplicate', {}],
        ['preview', {}],
        ['rollback', { version: 1 }],
      ] as const) {
        assert.equal(
          (await ask(`/templates/${reference}/${verb}`, { body })).status,
          404,
          `${reference} ${verb}`,
        )
      }
      const changed = await ask(`/templates/${reference}`, { body: { text: 'x' }, method: 'PATCH' })
      assert.equal(changed.status, 404, reference)
    }
  })
})

test('the list has the latest made first, in pages that go both ways', async () => {
  const made: string[] = []
  for (let n = 0; n < 5; n += 1) made.unshift((await save({ name: `listed ${n}`, text: 'x' })).id)
  type List = { has_more: boolean; data: Template[] }
  const list = async (query: string) => {
    const { has_more, data } = await done<List>(`/templates?${query}`)
    return { has_more, ids: data.map(({ id }) => id) }
  }
  const first = await list('limit=2')
  assert.deepEqual(first, { has_more: true, ids: made.slice(0, 2) })
  const second = await list(`limit=2&after=${made[1]}`)
  assert.deepEqual(second, { has_more: true, ids: made.slice(2, 4) })
  assert.deepEqual(await list(`limit=2&before=${made[3]}`), { has_more: true, ids: made.slice(1, 3) })
  assert.deepEqual(await list(`limit=3&before=${made[2]}`), { has_more: false, ids: made.slice(0, 2) })
  const whole = await list('limit=100')
  assert.equal(whole.has_more, false)
  const [last] = whole.ids.slice(-1)
  assert.deepEqual(await list(`after=${last}`), { has_more: false, ids: [] })
  for (const query of [
    'after=nobody',
    `after=${made[0]}&before=${made[1]}`,
    'after=00000000-0000-4000-8000-000000000000',
    'limit=0',
    'limit=101',
    'limit=x',
  ]) {
    assert.equal((await ask(`/templates?${query}`)).status, 422, query)
  }
})

test('a draft that is wrong is refused with the field or the fault', async () => {
  const id = '01a2b3c4-0000-4000-8000-000000000000'
  const wrong: [draft: unknown, name: string, message: RegExp][] = [
    [{ text: 'a' }, 'missing_required_field', /`name`/],
    [{ name: 'wrong' }, 'missing_required_field', /`html` or `text`/],
    [{ name: 'wrong', html: null }, 'missing_required_field', /`html` or `text`/],
    [{ name: 'wrong', text: 7 }, 'validation_error', /`text`/],
    [{ name: '', text: 'a' }, 'validation_error', /`name`/],
    [{ name: ' ', text: 'a' }, 'validation_error', /`name`/],
    [{ name: '..', text: 'a' }, 'validation_error', /`name`.*URL/],
    [{ name: id, text: 'a' }, 'validation_error', /`name`.*id/],
    [{ name: 'two\nlines', text: 'a' }, 'validation_error', /`name`.*line/],
    [{ name: 'n'.repeat(201), text: 'a' }, 'validation_error', /`name`/],
    [{ name: 'wrong', alias: 'with space', text: 'a' }, 'validation_error', /`alias`/],
    [{ name: 'wrong', alias: id, text: 'a' }, 'validation_error', /`alias`.*id/],
    [{ name: 'wrong', text: 'a\0' }, 'validation_error', /`text`/],
    [{ name: 'wrong\ud800', text: 'a' }, 'validation_error', /`name`/],
    [{ name: 'wrong', text: 'a', body: 'b' }, 'validation_error', /`body`/],
    [{ name: 'wrong', text: 'a', from: 'nobody' }, 'validation_error', /`from`.*address/],
    [{ name: 'wrong', text: 'a', reply_to: ['a@b.c', 'nobody'] }, 'validation_error', /`reply_to/],
    [{ name: 'wrong', text: 'a', strict: 'yes' }, 'validation_error', /`strict`/],
    [
      { name: 'wrong', text: 'a', variables: [{ key: 'a-b', type: 'string' }] },
      'validation_error',
      /variables\[0\]\.key/,
    ],
    [
      { name: 'wrong', text: 'a', variables: [{ key: 'a', type: 'date' }] },
      'validation_error',
      /variables\[0\]\.type/,
    ],
    [
      { name: 'wrong', text: 'a', variables: [{ key: 'a', type: 'number', fallback_value: 'x' }] },
      'validation_error',
      /variables\[0\]\.fallback_value/,
    ],
    [
      { name: 'wrong', text: 'a', variables: [1, 2].map(() => ({ key: 'a', type: 'string' })) },
      'validation_error',
      /twice/,
    ],
    [{ name: 'wrong', text: '{% if %}' }, 'validation_error', /./],
    [{ name: 'wrong', text: '{{ a | no_such_filter }}' }, 'validation_error', /no_such_filter/],
    [{ name: 'wrong', text: '{% include "a" %}' }, 'validation_error', /use "render"/],
    [{ name: 'wrong', text: '{% render a %}' }, 'validation_error', /name of a template in quotes/],
    [{ name: 'wrong', html: `${'{% if a %}'.repeat(7_000)}` }, 'validation_error', /characters of Liquid/],
    [{ name: 'wrong', html: 'x'.repeat(600_000) }, 'validation_error', /longer than/],
    [[], 'validation_error', /`body`/],
  ]
  for (const [draft, name, message] of wrong) {
    const answer = await ask<{ name: string }>('/templates', { body: draft })
    const shown = JSON.stringify(draft).slice(0, 200)
    assert.deepEqual([answer.status, answer.body.name], [422, name], `${shown} ${answer.body.message}`)
    assert.match(answer.body.message, message, shown)
  }
  assert.equal((await ask('/templates/wrong')).status, 404)
})

describe('a preview', () => {
  test('renders the draft, names what is missing, and sends nothing', async () => {
    await published({ name: 'shown', subject: 'Hi {{ name }}', html: '<p>{{ order.id }}</p>', strict: true })
    await change('shown', {
      html: '<p>{{ order.id }} new</p>',
      text: '{{ name }}',
      from: 'Shop <shop@example.com>',
    })
    const before = await database.query('select from mail.message union all select from mail.outbox')
    assert.deepEqual(await preview('shown', { variables: { name: 'A & B' } }), {
      object: 'template_preview',
      id: (await done('/templates/shown')).id,
      name: 'shown',
      version: 2,
      subject: 'Hi A & B',
      html: '<p> new</p>',
      text: 'A & B',
      from: 'Shop <shop@example.com>',
      reply_to: null,
      missing: ['order.id'],
    })
    const older = await preview('shown', { version: 1, variables: { name: 'x', order: { id: 1 } } })
    assert.deepEqual([older.html, older.text, older.missing], ['<p>1</p>', '1', []])
    const after = await database.query('select from mail.message union all select from mail.outbox')
    assert.equal(after.length, before.length)
  })

  test('of a template that cannot be rendered says why, within its bounds', async () => {
    await save({
      name: 'endless',
      text: '{% for i in (1..9999) %}{% for j in (1..9999) %}{% endfor %}{% endfor %}',
    })
    await refused('/templates/endless/preview', {}, /took longer|was stopped/)
    await save({ name: 'needs', text: '{% render "not there yet" %}' })
    await refused('/templates/needs/preview', {}, /"not there yet"/)
    await save({ name: 'narcissus', text: '{% render "narcissus" %}' })
    await refused('/templates/narcissus/preview', {}, /"narcissus"/)
  })

  test('of variables that are none is refused', async () => {
    await save({ name: 'plain', text: 'x' })
    await refused('/templates/plain/preview', { variables: [] }, /`variables`/)
    await refused('/templates/plain/preview', { variables: { a: 'x\0' } }, /NUL/)
    await refused('/templates/plain/preview', { version: 0 }, /`version`/)
  })
})

describe('a template that uses others', () => {
  test('is published when they are, and shows whom it uses', async () => {
    await save({
      name: 'page',
      html: '{% layout "frame" %}{% block main %}{% render \'sign\' %}{% endblock %}',
    })
    await refused('/templates/page/publish', {}, /no template named "frame" is published/)
    await published({ name: 'frame', html: '<main>{% block main %}{% endblock %}</main>' })
    await published({ name: 'sign', html: '<i>Shop</i>' })
    await publish('page')
    assert.deepEqual((await done('/templates/page')).uses, ['frame', 'sign'])
    assert.equal((await preview('page')).html, '<main><i>Shop</i></main>')
  })

  test('is not published when they would use it in turn', async () => {
    await published({ name: 'ring a', text: 'a' })
    await published({ name: 'ring b', text: '{% render "ring a" %}' })
    await published({ name: 'ring c', text: '{% render "ring b" %}' })
    await change('ring%20a', { text: '{% render "ring c" %}' })
    await refused('/templates/ring%20a/publish', {}, /ring a → ring c → ring b → ring a/)
    await save({ name: 'self', text: '{% render "self" %}' })
    await refused('/templates/self/publish', {}, /self → self/)
    assert.equal((await preview('ring%20c')).text, 'a')
  })

  test('is not published, renamed or rolled back into a cycle either', async () => {
    await published({ name: 'orbit', text: 'x' })
    await published({ name: 'moon', text: '{% render "orbit" %}' })
    await published({ name: 'planet', text: '{% render "moon" %}' })
    await done('/templates/orbit', { method: 'DELETE' })
    await refused('/templates/planet', { name: 'orbit' }, /itself/, 'PATCH')
    assert.equal((await done('/templates/planet')).name, 'planet')
    await published({ name: 'first', text: 'x' })
    await published({ name: 'second', text: '{% render "first" %}' })
    await change('second', { text: 'alone' })
    await publish('second')
    await change('first', { text: '{% render "second" %}' })
    await publish('first')
    await refused('/templates/second/rollback', { version: 1 }, /second → first → second/)
  })

  test('two who publish the halves of a cycle at the same moment: one does', async () => {
    for (const name of ['yin', 'yang']) await published({ name, text: 'x' })
    await change('yin', { text: '{% render "yang" %}' })
    await change('yang', { text: '{% render "yin" %}' })
    const answers = await Promise.all(
      ['yin', 'yang'].map((name) => ask(`/templates/${name}/publish`, { method: 'POST' })),
    )
    assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 422])
  })

  test('is not published more than ten deep, also when the depth is above it', async () => {
    await published({ name: 'deep 0', text: 'x' })
    for (let n = 1; n <= 10; n += 1)
      await published({ name: `deep ${n}`, text: `{% render "deep ${n - 1}" %}` })
    assert.equal((await preview('deep%2010')).text, 'x')
    await save({ name: 'deep 11', text: '{% render "deep 10" %}' })
    await refused('/templates/deep%2011/publish', {}, /more than 10 deep/)
    await published({ name: 'deeper still', text: 'x' })
    await change('deep%200', { text: '{% render "deeper still" %}' })
    await refused('/templates/deep%200/publish', {}, /more than 10 deep/)
  })
})
