import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { Resend } from 'resend'
import { createKey } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { apply, eventOf, insertMessages, openTestPool, suppressions } from '../support/feedback.ts'
import { HOSTILE_STRINGS } from '../support/hostile-strings.ts'
import { startTestService, TEST_KEY, type TestService } from '../support/service.ts'

let database: TestDatabase
let service: TestService
let resend: Resend

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database)
  resend = new Resend(TEST_KEY, { baseUrl: service.url ?? '' })
})

async function answerOf(path: string, options?: Parameters<TestService['request']>[1]) {
  const response = await service.request(path, options)
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

async function refusalOf(path: string, options?: Parameters<TestService['request']>[1]): Promise<string> {
  const { status, body } = await answerOf(path, options)
  return `${status} ${body.name}: ${body.message}`
}

const UUID = /^[0-9a-f-]{36}$/
const NIL = '00000000-0000-0000-0000-000000000000'

describe("with Resend's SDK", () => {
  test('an address is added, read by id and by address, and removed', async () => {
    const added = await resend.suppressions.add({ email: 'Ann@Example.net' })
    const id = added.data?.id ?? ''
    assert.match(id, UUID)
    assert.deepEqual(added.data, { object: 'suppression', id })
    for (const key of [id, 'ann@example.NET']) {
      const { data } = await resend.suppressions.get(key)
      assert.partialDeepStrictEqual(data, {
        object: 'suppression',
        id,
        email: 'ann@example.net',
        origin: 'manual',
        source_id: null,
      })
      assert.ok(Date.now() - Date.parse(data?.created_at ?? '') < 60_000)
    }
    assert.deepEqual((await resend.suppressions.add({ email: 'ann@example.net' })).data?.id, id)
    assert.deepEqual((await resend.suppressions.remove('ann@example.net')).data, {
      object: 'suppression',
      id,
      deleted: true,
    })
    assert.equal((await resend.suppressions.get(id)).error?.name, 'not_found')
    assert.equal((await resend.suppressions.remove(id)).error?.name, 'not_found')
  })

  test('a hundred are added and removed at once, by address and by id', async () => {
    const emails = Array.from({ length: 100 }, (_, index) => `batch${99 - index}@example.net`)
    const added = await resend.suppressions.batch.add({ emails })
    const ids = added.data?.data.map(({ id }) => id) ?? []
    const rows = await database.query<{ id: string; address: string }>(
      "select id, address from mail.suppression where address like 'batch%'",
    )
    const addressOf = new Map(rows.map(({ id, address }) => [id, address]))
    assert.deepEqual(
      ids.map((id) => addressOf.get(id)),
      emails,
    )
    const byId = await resend.suppressions.batch.remove({ ids: ids.slice(0, 50) })
    assert.ok(byId.data?.data.every(({ deleted }) => deleted))
    const byAddress = await resend.suppressions.batch.remove({ emails: emails.slice(49) })
    assert.deepEqual(
      byAddress.data?.data.map(({ id, deleted }) => [id, deleted]),
      [['batch50@example.net', false], ...ids.slice(50).map((id) => [id, true])],
    )
  })

  test('the list goes page by page in both directions, newest first, by origin', async () => {
    await database.query('delete from mail.suppression')
    const db = openTestPool(database)
    const [message = ''] = await insertMessages(database, [{ to: ['complainer@example.net'] }])
    for (const n of [1, 2, 3, 4, 5]) await resend.suppressions.add({ email: `page${n}@example.net` })
    await apply(db, [eventOf(message, 'complained')])
    const complaints = await resend.suppressions.list({ origin: 'complaint' })
    assert.deepEqual(
      complaints.data?.data.map(({ email, source_id }) => [email, source_id]),
      [['complainer@example.net', message]],
    )
    const first = await resend.suppressions.list({ limit: 2, origin: 'manual' })
    assert.equal(first.data?.object, 'list')
    assert.equal(first.data?.has_more, true)
    assert.deepEqual(
      first.data?.data.map(({ email }) => email),
      ['page5@example.net', 'page4@example.net'],
    )
    const after = first.data?.data[1]?.id ?? ''
    const second = await resend.suppressions.list({ limit: 3, after, origin: 'manual' })
    assert.equal(second.data?.has_more, false)
    assert.deepEqual(
      second.data?.data.map(({ email }) => email),
      ['page3@example.net', 'page2@example.net', 'page1@example.net'],
    )
    const before = second.data?.data[2]?.id ?? ''
    const back = await resend.suppressions.list({ limit: 2, before, origin: 'manual' })
    assert.equal(back.data?.has_more, true)
    assert.deepEqual(
      back.data?.data.map(({ email }) => email),
      ['page3@example.net', 'page2@example.net'],
    )
  })
})

describe('a scope, a reason and an expiry', () => {
  test('are given, shown, and looked in', async () => {
    const body = {
      email: 'scoped@example.net',
      scope: 'marketing',
      reason: 'asked by phone',
      expires_at: '2099-01-01T00:00:00Z',
    }
    const { body: added } = await answerOf('/suppressions', { body })
    const { body: found } = await answerOf('/suppressions/scoped%40example.net?scope=marketing')
    assert.partialDeepStrictEqual(found, {
      id: added.id,
      scope: 'marketing',
      reason: 'asked by phone',
      expires_at: '2099-01-01T00:00:00.000Z',
    })
    assert.equal(
      await refusalOf('/suppressions/scoped@example.net', { method: 'DELETE' }),
      '404 not_found: Suppression not found. The address is suppressed in marketing: name one with `?scope=`.',
    )
    const removed = await answerOf('/suppressions/scoped@example.net?scope=marketing', { method: 'DELETE' })
    assert.equal(removed.body.deleted, true)
  })

  test('an address of which there is evidence keeps it when a person adds it', async () => {
    const db = openTestPool(database)
    const [id = ''] = await insertMessages(database, [{ to: ['evident@example.net'] }])
    await apply(db, [eventOf(id, 'bounced', { bounce: { kind: 'hard', code: '5.1.1' } })])
    await resend.suppressions.add({ email: 'evident@example.net' })
    const { data } = await resend.suppressions.get('evident@example.net')
    assert.deepEqual([data?.origin, data?.source_id], ['bounce', id])
  })
})

describe('what is refused', () => {
  const REFUSALS: readonly (readonly [string, unknown, RegExp])[] = [
    ['', {}, /^422 missing_required_field: .*`email`/],
    ['', { email: 'nobody' }, /^422 validation_error: Invalid `email`: `nobody` has no `@`/],
    ['', { email: 'Ann <ann@example.net>' }, /a name or brackets/],
    ['', { email: 'a@example.net', scope: 'none' }, /Invalid `scope`: there is no stream `none`/],
    [
      '',
      { email: 'a@example.net', expires_at: '2020-01-01T00:00:00Z' },
      /`expires_at`: must be in the future/,
    ],
    ['', { email: 'a@example.net', expires_at: 'soon' }, /`expires_at`: must be a time such as/],
    ['', { email: 'a@example.net', reason: 'a\0b' }, /`reason`: has a character/],
    ['', { email: 'a@example.net', origin: 'bounce' }, /Unknown field `origin`/],
    ['/batch/add', { emails: [] }, /`emails`: must not be empty/],
    ['/batch/add', { emails: Array(101).fill('a@example.net') }, /`emails`: may have at most 100/],
    ['/batch/add', { emails: ['a@example.net', 'b'] }, /Invalid `emails\[1\]`/],
    ['/batch/remove', {}, /missing_required_field: Missing `emails` or `ids`/],
    ['/batch/remove', { ids: ['a@example.net'] }, /is not an id/],
  ]
  for (const [path, body, expected] of REFUSALS) {
    test(`POST /suppressions${path} ${JSON.stringify(body).slice(0, 80)}`, async () => {
      assert.match(await refusalOf(`/suppressions${path}`, { body }), expected)
    })
  }
  const QUERIES = ['limit=0', 'limit=101', 'after=x', 'origin=other', 'page=2', `after=${NIL}&before=${NIL}`]
  for (const query of QUERIES) {
    test(`GET /suppressions?${query}`, async () => {
      assert.match(await refusalOf(`/suppressions?${query}`), /^422 validation_error/)
    })
  }

  test('by the scope of the key', async () => {
    const db = openTestPool(database, 1)
    const asKey = async (scope: 'read' | 'send' | 'operate', method: string) => {
      const { key } = await createKey(db, { name: scope, scope })
      const headers = { Authorization: `Bearer ${key}` }
      const body = method === 'POST' ? { body: { email: 'key@example.net' } } : {}
      return (await answerOf('/suppressions', { method, headers, ...body })).status
    }
    assert.deepEqual(
      [await asKey('read', 'GET'), await asKey('read', 'POST'), await asKey('send', 'GET')],
      [200, 401, 401],
    )
    assert.deepEqual([await asKey('operate', 'GET'), await asKey('operate', 'POST')], [200, 200])
  })
})

function importCsv(body: string | ReadableStream, type = 'text/csv') {
  return fetch(new URL('/suppressions/import', service.url), {
    method: 'POST',
    headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': type },
    body,
    duplex: 'half',
  } as RequestInit)
}

describe('as CSV', () => {
  test('good lines are imported, bad ones told by their number', async () => {
    await database.query('delete from mail.suppression')
    const lines = [
      '\ufeffEmail Address,Scope,Reason,expires_at,Origin',
      'Ann@Example.net,,"said ""stop"", twice",,x',
      'not an address,,,',
      'bob@example.net,marketing,,2099-01-01T00:00:00Z',
      '',
      'cy@example.net,nowhere,,',
      'di@example.net,,,yesterday',
      'ann@example.net,,again,',
    ]
    const response = await importCsv(lines.join('\r\n'))
    const answer = (await response.json()) as {
      imported: number
      refused: number
      errors: { line: number; message: string }[]
    }
    assert.deepEqual([response.status, answer.imported, answer.refused], [200, 3, 3])
    assert.deepEqual(
      answer.errors.map(({ line }) => line),
      [3, 6, 7],
    )
    assert.match(answer.errors[1]?.message ?? '', /^scope: there is no stream `nowhere`/)
    assert.deepEqual(
      (await suppressions(database)).map(({ address, scope, origin }) => [address, scope, origin]),
      [
        ['ann@example.net', '*', 'import'],
        ['bob@example.net', 'marketing', 'import'],
      ],
    )
  })

  test('whatever a file holds is told line by line, and what is good in it is taken', async () => {
    await database.query('delete from mail.suppression')
    const reasons = HOSTILE_STRINGS.filter((text) => !/[\r\n"]/.test(text) && text.length < 400)
    const lines = [
      'constructor,__proto__,email,reason',
      ...reasons.map((reason, n) => `x,y,a${n}@example.net,"${reason}"`),
      ...HOSTILE_STRINGS.filter((text) => !/[\r\n"]/.test(text)).map((text) => `x,y,"${text}",z`),
      `x,y,${','.repeat(9_000)}`,
      `x,y,"${'z'.repeat(20_000)}",z`,
      'x,y,"never closed@example.net,z',
      'x,y,z@example.net,z',
    ]
    const response = await importCsv(lines.join('\n'))
    const answer = (await response.json()) as { imported: number; refused: number; errors: object[] }
    assert.equal(response.status, 200, JSON.stringify(answer))
    const storable = reasons.filter((reason) => !reason.includes('\0')).length
    assert.equal(answer.imported, storable)
    assert.ok(answer.refused > 300 && answer.errors.length === 100, `${answer.refused} refused`)
    assert.equal((await suppressions(database)).length, storable)
    const exported = await (await service.request('/suppressions/export')).text()
    for (const [line] of exported.matchAll(/^.*$/gm)) assert.doesNotMatch(line, /,"?[=+@]/)
  })

  for (const [whose, header, row] of [
    ['Amazon SES', 'EmailAddress,Reason,LastUpdateTime', 'ses@example.net,BOUNCE,2026-01-01T00:00:00Z'],
    ['SendGrid', 'status,reason,email,created', '5.1.1,550 unknown,sendgrid@example.net,1700000000'],
    [
      'Postmark',
      '"EmailAddress","SuppressionReason","Origin","CreatedAt"',
      '"postmark@example.net","HardBounce","Recipient",""',
    ],
    ['Mailgun', 'address,code,error,created_at', 'mailgun@example.net,550,No such mailbox,x'],
  ] as const) {
    test(`an export of ${whose} is read`, async () => {
      const answer = await (await importCsv(`${header}\n${row}\n`)).json()
      assert.partialDeepStrictEqual(answer, { imported: 1, refused: 0 })
    })
  }

  test('a plain list of addresses is read, and what is no list is refused', async () => {
    assert.partialDeepStrictEqual(
      await (await importCsv('one@example.net\ntwo@example.net', 'text/plain')).json(),
      {
        imported: 2,
      },
    )
    const noColumn = await importCsv('name,city\nAnn,Rome\n')
    assert.match(((await noColumn.json()) as { message: string }).message, /names no column `address`/)
    assert.equal((await importCsv('{}', 'application/json')).status, 400)
  })

  test('a quote that never closes ends with its line, however much follows', async () => {
    const tail = Array.from({ length: 2_000 }, (_, index) => `tail${index}@example.net`).join('\n')
    const response = await importCsv(`email,reason\nok@example.net,"never closed\n${tail}\n`)
    const answer = (await response.json()) as { refused: number }
    assert.equal(response.status, 200)
    assert.ok(answer.refused >= 1)
  })

  test('twenty thousand lines go in as they stream, and come out again', async () => {
    await database.query('delete from mail.suppression')
    let sent = 0
    const encoder = new TextEncoder()
    const body = new ReadableStream({
      pull(controller) {
        if (sent === 0) controller.enqueue(encoder.encode('email,reason\n'))
        if (sent >= 20_000) return controller.close()
        const lines = Array.from(
          { length: 2_000 },
          (_, index) => `user${sent + index}@example.net,"=1+1, moved"\n`,
        )
        sent += lines.length
        controller.enqueue(encoder.encode(lines.join('')))
      },
    })
    assert.partialDeepStrictEqual(await (await importCsv(body)).json(), { imported: 20_000, refused: 0 })
    await resend.suppressions.add({ email: '=cmd@example.net' })
    const exported = await service.request('/suppressions/export')
    assert.match(exported.headers.get('Content-Type') ?? '', /^text\/csv/)
    const text = await exported.text()
    const lines = text.trimEnd().split('\n')
    assert.equal(lines.length, 20_002)
    assert.equal(lines[0], 'address,scope,origin,reason,source,created_at,expires_at')
    assert.match(text, /^user7@example\.net,\*,import,"'=1\+1, moved",api key bootstrap,/m)
    assert.match(text, /^'=cmd@example\.net,/m)
    await database.query('delete from mail.suppression')
    assert.partialDeepStrictEqual(await (await importCsv(text)).json(), { imported: 20_001, refused: 0 })
    const back = await database.query("select from mail.suppression where address = '=cmd@example.net'")
    assert.equal(back.length, 1)
  })
})
