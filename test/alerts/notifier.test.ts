/** What targets are told, and what happens when they do not listen. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from 'pg'
import { Webhook } from 'standardwebhooks'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { countLockWaits } from '../support/lock-waits.ts'
import { startWebhookReceiver } from '../support/webhook-receiver.ts'
import {
  addTarget,
  deliveriesOf,
  evaluate,
  makeDue,
  makeRule,
  openNotifier,
  setDeadLetters,
  untilState,
} from './alert-stage.ts'

const SECRET = `whsec_${Buffer.from('a secret of two dozen b.').toString('base64')}`

test('Slack is told in one message of all that fired at a moment, with what to do next, and of its end', async (t) => {
  const database = await createTestDatabase(t)
  const slack = await startWebhookReceiver(t)
  await makeRule(database)
  await addTarget(database, { name: 'team', kind: 'slack', url_env: 'SLACK_URL' })
  const notifier = openNotifier(database, [slack], { environment: { SLACK_URL: slack.url } })
  await setDeadLetters(database, 20)
  await setDeadLetters(database, 30, 'marketing')
  await evaluate(database)
  await notifier.look()
  const [first] = await slack.waitFor(1)
  const { text, ...rest } = JSON.parse(first?.body ?? '') as { text: string }
  assert.deepEqual(rest, {})
  assert.match(text, /^2 alerts: 2 warning\n\n/)
  assert.match(
    text,
    /\*warning: many \(transactional\)\*\n20 dead letters of stream transactional wait .*, since 20.* UTC\.\n/,
  )
  assert.match(text, /Next in psql: `select 1;`\nOn the dashboard: \/$/m)
  await untilState(database, 'team', 'sent')

  await setDeadLetters(database, 1)
  await evaluate(database)
  await notifier.look()
  const [, second] = await slack.waitFor(2)
  assert.match(
    JSON.parse(second?.body ?? '').text,
    /^\*resolved: many \(transactional\)\*\nOver at 20.* UTC\. It was: 20 dead/,
  )
})

test('what is put into a message while it is being taken is told', async (t) => {
  const database = await createTestDatabase(t)
  const slack = await startWebhookReceiver(t, () => 500)
  await makeRule(database)
  await addTarget(database, { name: 'team', kind: 'slack', url_env: 'SLACK_URL' })
  const notifier = openNotifier(database, [slack], { environment: { SLACK_URL: slack.url } })
  await setDeadLetters(database, 20)
  await evaluate(database)
  // Another process that takes itself for the leader, and has not committed yet.
  const other = new Client({ connectionString: database.url })
  database.beforeDrop(() => other.end())
  await other.connect()
  await other.query('begin')
  await setDeadLetters(
    { query: async (text, values) => (await other.query(text, values)).rows },
    30,
    'marketing',
  )
  await other.query('select mail.evaluate_alerts()')
  let hasLooked = false
  const looking = notifier.look().finally(() => {
    hasLooked = true
  })
  await eventually('it waits, or has passed by', async () => hasLooked || (await countLockWaits(other)) > 0)
  await other.query('commit')
  await looking
  await notifier.look()
  const [first] = await slack.waitFor(1)
  assert.match(JSON.parse(first?.body ?? '').text, /^2 alerts: 2 warning/)
})

test('a program is told in JSON, signed, under the same id and with the same bytes at each attempt', async (t) => {
  const database = await createTestDatabase(t)
  const app = await startWebhookReceiver(t, (_, count) => (count === 1 ? 500 : 200))
  await makeRule(database)
  await addTarget(database, { name: 'app', kind: 'generic', url: app.url, secret_env: 'ALERT_SECRET' })
  const notifier = openNotifier(database, [app], { environment: { ALERT_SECRET: SECRET } })
  await setDeadLetters(database, 20)
  await evaluate(database)
  await notifier.look()
  await eventually('the failure is noted', async () => {
    const [delivery] = await deliveriesOf(database)
    return delivery?.last_error === 'it answered with status 500' && delivery.state === 'sending'
  })
  // Not due yet; and what comes meanwhile gathers in the next message.
  await setDeadLetters(database, 30, 'marketing')
  await evaluate(database)
  await notifier.look()
  assert.equal(app.received.length, 1)
  await makeDue(database)
  await notifier.look()
  await untilState(database, 'app', 'sent')
  await notifier.look()
  const [failed, again, next] = await app.waitFor(3)
  assert.equal(failed?.body, again?.body)
  assert.equal(failed?.headers['webhook-id'], again?.headers['webhook-id'])
  const event = new Webhook(SECRET).verify(again?.body ?? '', again?.headers ?? {}) as {
    data: { alerts: Record<string, unknown>[] }
  }
  assert.partialDeepStrictEqual(event, {
    type: 'alerts',
    data: {
      alerts: [
        {
          ...{ event: 'fired', rule: 'many', subject: 'transactional', severity: 'warning' },
          ...{ stream: 'transactional', value: 20, threshold: 10, command: 'select 1;', resolved_at: null },
        },
      ],
    },
  })
  const later = JSON.parse(next?.body ?? '').data.alerts as { subject: string }[]
  assert.deepEqual(
    later.map(({ subject }) => subject),
    ['marketing'],
  )
})

test('a target that hangs holds up no other, and is tried again', async (t) => {
  const database = await createTestDatabase(t)
  const hung = await startWebhookReceiver(t, () => 'hang')
  const well = await startWebhookReceiver(t)
  await makeRule(database)
  await addTarget(database, { name: 'a-hung', kind: 'generic', url: hung.url })
  await addTarget(database, { name: 'b-well', kind: 'generic', url: well.url })
  const notifier = openNotifier(database, [hung, well], { timeoutMs: 2_000 })
  await setDeadLetters(database, 20)
  await evaluate(database)
  await notifier.look()
  await untilState(database, 'b-well', 'sent')
  // In hand: nobody else takes it, and it is not told twice.
  await notifier.look()
  assert.equal(hung.received.length, 1)
  await eventually('the hung one is given up for now', async () =>
    (await deliveriesOf(database)).some(({ last_error }) => last_error?.includes('no whole answer')),
  )
  await makeDue(database)
  await notifier.look()
  await hung.waitFor(2)
})

test('after a day it is given up, and what gathered meanwhile goes as one message', async (t) => {
  const database = await createTestDatabase(t)
  let answer = 503
  const app = await startWebhookReceiver(t, () => answer)
  await makeRule(database)
  await addTarget(database, { name: 'app', kind: 'generic', url: app.url })
  const notifier = openNotifier(database, [app])
  await setDeadLetters(database, 20)
  await evaluate(database)
  await notifier.look()
  await eventually('the first attempt failed', async () => (await deliveriesOf(database))[0]?.last_error)
  for (const stream of ['transactional', 'marketing', 'alerts', 'transactional']) {
    await setDeadLetters(database, 0, stream)
    await evaluate(database)
    await setDeadLetters(database, 20, stream)
    await evaluate(database)
  }
  await database.query(
    "update mail.alert_delivery set created_at = created_at - interval '25 hours' where tries > 0",
  )
  await makeDue(database)
  await notifier.look()
  await untilState(database, 'app', 'failed')
  answer = 200
  await notifier.look()
  await untilState(database, 'app', 'sent')
  const states = (await deliveriesOf(database)).map(({ state }) => state)
  assert.deepEqual(states, ['failed', 'sent'])
})

test('a lease that is over is taken up by another process, and the first one’s end counts for nothing', async (t) => {
  const database = await createTestDatabase(t)
  const app = await startWebhookReceiver(t, (_, count) => (count === 1 ? 'hang' : 200))
  await makeRule(database)
  await addTarget(database, { name: 'app', kind: 'generic', url: app.url })
  const [first, second] = [openNotifier(database, [app]), openNotifier(database, [app])]
  await setDeadLetters(database, 20)
  await evaluate(database)
  await first.look()
  await app.waitFor(1)
  await second.look()
  assert.equal(app.received.length, 1)
  await database.query("update mail.alert_delivery set leased_until = now() - interval '1 second'")
  await second.look()
  await untilState(database, 'app', 'sent')
  await first.stop(AbortSignal.abort())
  const [delivery] = await deliveriesOf(database)
  assert.deepEqual([delivery?.state, delivery?.tries], ['sent', 2])
})

test('a variable that is not set, a secret that is none and a host of our own are said, and never the URL', async (t) => {
  const database = await createTestDatabase(t)
  await makeRule(database)
  await addTarget(database, { name: 'a', kind: 'slack', url_env: 'NOT_THERE' })
  await addTarget(database, { name: 'b', kind: 'generic', url: 'https://x.example.com/', secret_env: 'ODD' })
  await addTarget(database, { name: 'c', kind: 'generic', url: 'http://127.0.0.1:1/a-token' })
  const notifier = openNotifier(database, [], { environment: { ODD: 'not a secret' } })
  await setDeadLetters(database, 20)
  await evaluate(database)
  await notifier.look()
  const errors = await eventually('all three failed', async () => {
    const seen = (await deliveriesOf(database)).flatMap(({ last_error }) => last_error ?? [])
    return seen.length === 3 && seen.toSorted()
  })
  assert.match(
    errors.join('\n'),
    /the URL is refused: .*\n.*variable NOT_THERE is not set.*\n.*variable ODD holds no secret/,
  )
  assert.doesNotMatch(errors.join('\n'), /a-token/)
})
