import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'

type Answer = { readonly data: readonly Readonly<Record<string, unknown>>[] }

test('what was sent is in the numbers of the day, by stream and by tag, as JSON and as CSV', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database)
  await post(service, { tags: [{ name: 'kind', value: 'receipt' }] })
  await post(service, { stream: 'alerts' })
  const { data } = await eventually('two mails are counted', async () => {
    const answer = (await (await service.request('/stats?group_by=stream')).json()) as Answer
    return answer.data.length === 2 && answer
  })
  assert.deepEqual(
    data.map(({ stream, sent, dead }) => ({ stream, sent, dead })),
    [
      { stream: 'alerts', sent: 1, dead: 0 },
      { stream: 'transactional', sent: 1, dead: 0 },
    ],
  )
  assert.ok(data.every(({ p50_s: p50 }) => typeof p50 === 'number'))
  const tags = (await (await service.request('/stats?group_by=tag')).json()) as Answer
  assert.deepEqual(
    tags.data.map(({ tag, sent }) => ({ tag, sent })),
    [{ tag: 'kind:receipt', sent: 1 }],
  )
  const csv = await service.request('/stats?group_by=day,stream&format=csv')
  assert.match(csv.headers.get('Content-Type') ?? '', /^text\/csv/)
  const [header, ...lines] = (await csv.text()).trim().split('\n')
  assert.match(header ?? '', /^day,stream,sent,delivered/)
  assert.match(lines.join(), /^\d{4}-\d\d-\d\d,alerts,1,0/)
})

test('a cell that a spreadsheet would take for a formula is disarmed', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database)
  await database.query(
    `insert into mail.stat (day, stream, provider, template, template_version, domain, tag, sent)
     values (current_date, 'transactional', '', '=cmd()', 1, '', '', 1)`,
  )
  const csv = await (await service.request('/stats?group_by=template&format=csv')).text()
  assert.match(csv, /\n'=cmd\(\),1/)
})

test('a question that cannot be answered says why', async (t) => {
  const database = await createTestDatabase(t)
  const service = await startTestService(database)
  for (const [query, words] of [
    ['group_by=month', /group_by/],
    ['group_by=day,day', /only once/],
    ['from=yesterday', /from/],
    ['from=2026-02-02&to=2026-02-01', /after/],
    ['group_by=tag,domain', /tag/],
    ['template_version=x', /template_version/],
    ['colour=red', /colour/],
  ] as const) {
    const response = await service.request(`/stats?${query}`)
    assert.equal(response.status, 422, query)
    assert.match(((await response.json()) as { message: string }).message, words)
  }
})
