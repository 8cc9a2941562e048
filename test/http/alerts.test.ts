import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createKey } from '../../src/keys/keys.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../support/webhook-receiver.ts'

let database: TestDatabase
let service: TestService
let receiver: WebhookReceiver

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  receiver = await startWebhookReceiver(context)
  database = await createTestDatabase(context)
  await database.query('update mail.alert_rule set enabled = false')
  service = await startTestService(database, {
    SLUICE_WEBHOOK_HOSTS: receiver.host,
    TEAM_URL: receiver.url,
  })
})

type Answer = Record<string, unknown> & { id: string; message?: string; data: Answer[] }

async function call(method: string, path: string, body?: unknown, key?: string) {
  const response = await service.request(path, {
    method,
    ...(body !== undefined && { body }),
    ...(key !== undefined && { headers: { Authorization: `Bearer ${key}` } }),
  })
  return { status: response.status, body: (await response.json()) as Answer }
}

/** One that is over, of a rule that fires in earnest below. */
async function addResolved(): Promise<string> {
  const [row] = await database.query<{ id: string }>(
    `insert into mail.alert (rule, subject, severity, since, value, worst_value, threshold, what, command, page, resolved_at)
     values ('worker_died', '', 'warning', now(), 2, 3, 1, 'It was bad.', 'select 1;', '/', now())
     returning id`,
  )
  return row?.id ?? ''
}

async function fire(): Promise<string> {
  await database.query("insert into mail.worker_death (number, name) values (1, 'here:1')")
  await database.query("update mail.alert_rule set enabled = true where name = 'worker_died'")
  return eventually('the service fires it', async () => {
    const rows = await database.query<{ id: string }>('select id from mail.alert where resolved_at is null')
    return rows[0]?.id
  })
}

test('alerts are listed by pages, the latest first, by state and rule, and acknowledged', async () => {
  const over = [await addResolved(), await addResolved(), await addResolved(), await addResolved()]
  const open = await fire()
  const sorted = [...over, open].toSorted().reverse()
  const idsOf = async (query: string) => {
    const { status, body } = await call('GET', `/alerts?rule=worker_died&${query}`)
    assert.equal(status, 200, body.message)
    return { ids: body.data.map(({ id }) => id), hasMore: body.has_more }
  }
  assert.deepEqual(await idsOf('limit=2'), { ids: sorted.slice(0, 2), hasMore: true })
  assert.deepEqual(await idsOf(`limit=3&after=${sorted[1]}`), { ids: sorted.slice(2), hasMore: false })
  assert.deepEqual(await idsOf(`limit=1&before=${sorted[2]}`), { ids: [sorted[1]], hasMore: true })
  assert.deepEqual(new Set((await idsOf('state=resolved')).ids), new Set(over))
  assert.deepEqual((await idsOf('state=open')).ids, [open])
  for (let each = 0; each < 2; each += 1) {
    const { body } = await call('POST', `/alerts/${open}/acknowledge`)
    assert.ok(body.acknowledged_at !== null && body.acknowledged_by !== null)
  }
  assert.equal((await call('POST', `/alerts/${over[0]}/acknowledge`)).body.acknowledged_at, null)
  for (const [query, message] of [
    ['limit=0', /`limit`/],
    ['after=x', /`after`/],
    ['state=odd', /`state`/],
    ['colour=red', /colour/],
    [`after=${open}&before=${open}`, /cannot be used together/],
  ] as const) {
    const { status, body } = await call('GET', `/alerts?${query}`)
    assert.equal(status, 422, query)
    assert.match(body.message ?? '', message)
  }
  for (const id of ['x', '01995a00-0000-7000-8000-000000000001']) {
    assert.equal((await call('GET', `/alerts/${id}`)).status, 404)
    assert.equal((await call('POST', `/alerts/${id}/acknowledge`)).status, 404)
  }
})

test('a rule is changed within what makes sense, and silenced', async () => {
  const { body } = await call('PATCH', '/alert-rules/lag', {
    threshold: 500,
    clear_at: 400,
    stream: 'marketing',
  })
  assert.partialDeepStrictEqual(body, { threshold: 500, clear_at: 400, stream: 'marketing', for_s: 30 })
  const back = await call('PATCH', '/alert-rules/lag', { clear_at: null, stream: null })
  assert.partialDeepStrictEqual(back.body, { threshold: 500, clear_at: null, stream: null })
  for (const [path, given, status, message] of [
    ['/alert-rules/lag', { clear_at: 501 }, 422, /clear at is not above threshold/],
    ['/alert-rules/lag', { threshold: null }, 422, /`threshold`/],
    ['/alert-rules/lag', { command: 'drop table x' }, 422, /command/],
    ['/alert-rules/none', { threshold: 1 }, 404, /no such alert rule/],
  ] as const) {
    const refused = await call('PATCH', path, given)
    assert.equal(refused.status, status, JSON.stringify(refused.body))
    assert.match(refused.body.message ?? '', message)
  }
  const until = new Date(Date.now() + 3_600_000).toISOString()
  const silenced = await call('POST', '/alert-rules/lag/silence', { until })
  assert.partialDeepStrictEqual(silenced.body, { rule: 'lag', subject: null, until })
  assert.equal((await call('POST', '/alert-rules/none/silence', { until })).status, 404)
  assert.equal(
    (await call('POST', '/alert-rules/lag/silence', { until: '2001-01-01T00:00:00Z' })).status,
    422,
  )
})

test('a target is made, tested, changed and removed; its URL is not shown again', async () => {
  const url = `${receiver.host}/a-token`
  const { status, body } = await call('POST', '/alert-targets', { name: 'app', kind: 'generic', url })
  assert.equal(status, 200, body.message)
  assert.doesNotMatch(JSON.stringify((await call('GET', '/alert-targets')).body), /a-token/)
  const tested = await call('POST', `/alert-targets/${body.id}/test`)
  assert.deepEqual([tested.body.delivered, tested.body.error], [true, null])
  const [told] = await receiver.waitFor(1)
  assert.equal(told?.path, '/a-token')
  await call('PATCH', `/alert-targets/${body.id}`, { url: null, url_env: 'NOWHERE' })
  const failed = await call('POST', `/alert-targets/${body.id}/test`)
  assert.equal(failed.body.delivered, false)
  assert.match(String(failed.body.error), /the variable NOWHERE is not set/)
  assert.equal((await call('DELETE', `/alert-targets/${body.id}`)).status, 200)
  assert.equal((await call('DELETE', `/alert-targets/${body.id}`)).status, 404)
  assert.equal((await call('POST', `/alert-targets/${body.id}/test`)).status, 404)
})

test('a target that makes no sense is refused with the field or the rule', async () => {
  await call('POST', '/alert-targets', { name: 'taken', kind: 'slack', url_env: 'TEAM_URL' })
  for (const [given, message] of [
    [{ kind: 'slack', url_env: 'A' }, /`name`/],
    [{ name: 'a', kind: 'pigeon' }, /`kind`/],
    [{ name: 'a', kind: 'slack' }, /either a url or the name of its variable/],
    [{ name: 'a', kind: 'slack', url: 'https://a.example.com', url_env: 'A' }, /either a url or the name/],
    [{ name: 'a', kind: 'generic', url: 'http://10.0.0.1/' }, /`url`: it is not https/],
    [{ name: 'a', kind: 'email', address: 'ops@example.com' }, /has address and sender/],
    [{ name: 'a', kind: 'email', address: 'Ops <ops@example.com>', sender: 'a@example.com' }, /`address`/],
    [{ name: 'a', kind: 'slack', url_env: 'A', secret_env: 'B' }, /only a generic target is signed/],
    [{ name: 'taken', kind: 'slack', url_env: 'A' }, /there is a target taken already/],
  ] as const) {
    const { status, body } = await call('POST', '/alert-targets', given)
    assert.equal(status, 422, JSON.stringify(given))
    assert.match(body.message ?? '', message)
  }
})

test('a key of scope operate may switch a target off, and not send its alerts elsewhere', async () => {
  const { body } = await call('POST', '/alert-targets', { name: 'mine', kind: 'slack', url_env: 'TEAM_URL' })
  const { key } = await createKey(service.db, { name: 'ops', scope: 'operate' })
  assert.equal(
    (await call('PATCH', `/alert-targets/${body.id}`, { enabled: false }, key)).body.enabled,
    false,
  )
  for (const [method, path, given] of [
    ['PATCH', `/alert-targets/${body.id}`, { url_env: 'OTHER' }],
    ['DELETE', `/alert-targets/${body.id}`, undefined],
    ['POST', '/alert-targets', { name: 'other', kind: 'slack', url_env: 'OTHER' }],
  ] as const) {
    assert.equal((await call(method, path, given, key)).status, 401, method)
  }
})

test('of a URL with a password in it, which only SQL can store, the host alone is told', async () => {
  await database.query(
    "insert into mail.alert_target (name, kind, url, enabled) values ('odd', 'generic', 'https://ann:hush@ops.example.com/x', false)",
  )
  const { body } = await call('GET', '/alert-targets')
  assert.equal(body.data.find(({ name }) => name === 'odd')?.host, 'ops.example.com')
  await database.query(
    `insert into mail.webhook_endpoint (url, status, failing_since, disabled_reason)
     values ('https://ann:hush@app.example.com/x', 'disabled', now(), 'it failed')`,
  )
  await database.query("update mail.alert_rule set enabled = true where kind = 'endpoint_disabled'")
  const measured = await database.query<{ what: string }>(
    "select what from mail.alert_measure where rule = 'endpoint_disabled'",
  )
  assert.deepEqual(
    measured.map(({ what }) => what.includes('at app.example.com was') && !what.includes('hush')),
    [true],
  )
})
