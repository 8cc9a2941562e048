/** When an alert fires, when it is over, and when nobody hears of it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { addTarget, evaluate, makeRule, setDeadLetters } from './alert-stage.ts'

async function eventsOf(database: TestDatabase): Promise<string[]> {
  return (await evaluate(database)).map(({ event }) => event)
}

async function noticesOf({ query }: TestDatabase): Promise<string[]> {
  const rows = await query<{ event: string }>('select event from mail.alert_notice order by id')
  return rows.map(({ event }) => event)
}

test('a value that dances around the threshold fires once, and is over once it is well below', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database)
  for (const [count, events] of [
    [10, []],
    [11, ['fired']],
    [9, []],
    [12, []],
    [6, []],
    [30, []],
    [5, ['resolved']],
    [10, []],
    [11, ['fired']],
  ] as const) {
    await setDeadLetters(database, count)
    assert.deepEqual(await eventsOf(database), events, `${count} dead letters`)
  }
  const alerts = await database.query(
    'select value::integer, worst_value::integer as worst, resolved_at is null as is_open from mail.alert order by fired_at',
  )
  assert.deepEqual(alerts, [
    { value: 30, worst: 30, is_open: false },
    { value: 11, worst: 11, is_open: true },
  ])
})

test('it has to last before it fires, and to be over for a while before it is resolved', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database, { for_s: 30, clear_for_s: 60 })
  const passBy = (seconds: number, column: string, table: string) =>
    database.query(`update mail.${table} set ${column} = ${column} - interval '${seconds} seconds'`)
  await setDeadLetters(database, 20)
  assert.deepEqual(await eventsOf(database), [])
  await passBy(25, 'since', 'alert_pending')
  assert.deepEqual(await eventsOf(database), [])
  // For a moment it was not so: it begins anew.
  await setDeadLetters(database, 3)
  await eventsOf(database)
  await setDeadLetters(database, 20)
  await eventsOf(database)
  await passBy(25, 'since', 'alert_pending')
  assert.deepEqual(await eventsOf(database), [])
  await passBy(6, 'since', 'alert_pending')
  assert.deepEqual(await eventsOf(database), ['fired'])

  await setDeadLetters(database, 3)
  assert.deepEqual(await eventsOf(database), [])
  await passBy(50, 'clear_since', 'alert')
  assert.deepEqual(await eventsOf(database), [])
  await setDeadLetters(database, 6)
  await eventsOf(database)
  await setDeadLetters(database, 3)
  await eventsOf(database)
  await passBy(50, 'clear_since', 'alert')
  assert.deepEqual(await eventsOf(database), [])
  await passBy(11, 'clear_since', 'alert')
  assert.deepEqual(await eventsOf(database), ['resolved'])
})

test('what nobody looked at for longer than a minute did not last', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database, { for_s: 30 })
  await setDeadLetters(database, 20)
  await evaluate(database)
  await database.query(
    "update mail.alert_pending set since = since - interval '1 hour', seen_at = seen_at - interval '50 minutes'",
  )
  assert.deepEqual(await eventsOf(database), [])
})

test('several processes that take themselves for the leader fire an alert once', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database)
  await addTarget(database, { name: 'app', kind: 'generic', url: 'https://app.example.com/' })
  await setDeadLetters(database, 20)
  const looks = await Promise.all(Array.from({ length: 6 }, () => eventsOf(database)))
  assert.deepEqual(looks.flat(), ['fired'])
  assert.deepEqual(await noticesOf(database), ['fired'])
})

test('an alert is over when its rule is switched off or gone, or looks at something else', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database, { clear_for_s: 3_600 })
  for (const change of [
    'update mail.alert_rule set enabled = false',
    "delete from mail.alert_rule where name = 'many'",
  ]) {
    await setDeadLetters(database, 20)
    await database.query("update mail.alert_rule set enabled = true where name = 'many'")
    assert.deepEqual(await eventsOf(database), ['fired'])
    await database.query(change)
    assert.deepEqual(await eventsOf(database), ['resolved'])
  }
  await database.query('delete from mail.alert_rule')
  await makeRule(database)
  await eventsOf(database)
  await database.query("update mail.alert_rule set stream = 'marketing'")
  assert.deepEqual(await eventsOf(database), ['resolved'])
})

test('a silence keeps it from everybody; what is still there at its end is told then', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database)
  await addTarget(database, { name: 'app', kind: 'generic', url: 'https://app.example.com/' })
  await database.query("select mail.silence('many', 'transactional')")
  for (const stream of ['transactional', 'marketing']) await setDeadLetters(database, 20, stream)
  assert.deepEqual(await eventsOf(database), ['fired', 'fired'])
  const told = await database.query(
    'select a.subject from mail.alert_notice n join mail.alert a on a.id = n.alert_id',
  )
  assert.deepEqual(told, [{ subject: 'marketing' }])
  const [open] = await database.query<{ is_silenced: boolean }>(
    "select silenced_until > now() as is_silenced from mail.alerts_now where subject = 'transactional'",
  )
  assert.equal(open?.is_silenced, true)
  await database.query("update mail.alert_silence set until = now() - interval '1 second'")
  assert.deepEqual(await eventsOf(database), [])
  assert.deepEqual(await noticesOf(database), ['fired', 'fired'])
  await assert.rejects(database.query("select mail.silence('nonsense')"), { code: '42704' })
  await assert.rejects(database.query("select mail.silence('many', null, now())"), { code: '22023' })
})

test('what fired and ended under a silence is never told', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database)
  await addTarget(database, { name: 'app', kind: 'generic', url: 'https://app.example.com/' })
  await database.query("select mail.silence('many')")
  await setDeadLetters(database, 20)
  assert.deepEqual(await eventsOf(database), ['fired'])
  await setDeadLetters(database, 0)
  assert.deepEqual(await eventsOf(database), ['resolved'])
  await database.query("select mail.unsilence('many')")
  await eventsOf(database)
  assert.deepEqual(await noticesOf(database), [])
})

test('a reminder comes as often as the rule says, until somebody acknowledges it', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database, { repeat_s: 3_600 })
  await addTarget(database, { name: 'app', kind: 'generic', url: 'https://app.example.com/' })
  await setDeadLetters(database, 20)
  await eventsOf(database)
  const passAnHour = () => database.query("update mail.alert_notice set at = at - interval '61 minutes'")
  await eventsOf(database)
  assert.deepEqual(await noticesOf(database), ['fired'])
  await passAnHour()
  await eventsOf(database)
  await eventsOf(database)
  assert.deepEqual(await noticesOf(database), ['fired', 'reminded'])
  const [acknowledged] = await database.query('select mail.acknowledge(id) as done from mail.alert')
  assert.deepEqual(acknowledged, { done: true })
  assert.deepEqual(await database.query('select mail.acknowledge(id) as done from mail.alert'), [
    { done: false },
  ])
  await passAnHour()
  await eventsOf(database)
  assert.deepEqual(await noticesOf(database), ['fired', 'reminded'])
  await setDeadLetters(database, 0)
  await eventsOf(database)
  assert.deepEqual(await noticesOf(database), ['fired', 'reminded', 'resolved'])
})

test('a target hears of what is as severe as it asks for, and a new one of what is wrong already', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database)
  await addTarget(database, {
    name: 'pager',
    kind: 'generic',
    url: 'https://a.example.com/',
    min_severity: 'critical',
  })
  await setDeadLetters(database, 20)
  await eventsOf(database)
  assert.deepEqual(await noticesOf(database), [])
  await addTarget(database, { name: 'team', kind: 'generic', url: 'https://b.example.com/' })
  await eventsOf(database)
  assert.deepEqual(await noticesOf(database), ['fired'])
})

test('what is put into a command is quoted, and is no placeholder itself', async (t) => {
  const database = await createTestDatabase(t)
  const [row] = await database.query(
    `select mail.fill_command('select {stream}, ''{"a":1}'', {provider};', '{"stream": "it''s {provider}", "provider": null}') as command`,
  )
  assert.deepEqual(row, { command: `select 'it''s {provider}', '{"a":1}', NULL;` })
})

test('mail that waits for its send window is no trouble', async (t) => {
  const database = await createTestDatabase(t)
  await database.query(
    `insert into mail.depth (stage, stream, provider, ready, deferred, in_flight, oldest_at, measured_at, counted_ready, counted_net, counted_from)
     select 'dispatch', 'marketing', 'default', 20000, 0, 0, now() - interval '1 day', now(), 20000, 0, now()`,
  )
  const seen = async () => {
    const rows = await database.query<{ rule: string }>(
      "select rule from mail.alert_measure where stream = 'marketing' and value > threshold order by rule",
    )
    return rows.map(({ rule }) => rule)
  }
  assert.deepEqual(await seen(), ['lag', 'waiting_long'])
  // Open for a minute that is half a day away.
  await database.query(
    `insert into mail.send_window (stream, opens, closes)
     select 'marketing', at::time, (at + interval '1 minute')::time
     from date_trunc('minute', now() at time zone 'utc' + interval '12 hours') at`,
  )
  assert.deepEqual(await seen(), [])
})
