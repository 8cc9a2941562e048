/** Mail about alerts goes by a provider that is well, whatever became of the others. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { untilStatus } from '../support/messages.ts'
import { addProvider, note, variableOf } from '../support/pacing.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import {
  addTarget,
  deliveriesOf,
  evaluate,
  makeRule,
  openNotifier,
  setDeadLetters,
  untilState,
} from './alert-stage.ts'

async function addTeam(database: TestDatabase): Promise<void> {
  await addTarget(database, {
    ...{ name: 'team', kind: 'email', address: 'ops@example.net', sender: 'sluice@example.com' },
  })
}

test('the provider that fails is not asked to tell of it: the second on the route is', async (t) => {
  const database = await createTestDatabase(t)
  for (const name of ['first', 'second']) await addProvider(database, name)
  await database.query("update mail.stream set route = '{first,second}'")
  await addTeam(database)
  // It refuses everybody for good; its breaker, which counts only faults, stays closed.
  const refusing = await startSmtpSink(t, { onMailFrom: () => ({ code: 550, text: '5.7.1 Go away' }) })
  const well = await startSmtpSink(t)
  await database.query(
    `insert into mail.tally (bucket_at, process, kind, stream, provider, count)
     select date_bin('10 seconds', clock_timestamp(), 'epoch') - n * interval '10 seconds', gen_random_uuid(), 'dead', 'transactional', 'first', 100
     from generate_series(-30, 6) n`,
  )
  await database.query('update mail.alert_rule set for_s = 0')
  await startTestService(database, {
    [variableOf('first')]: refusing.url,
    [variableOf('second')]: well.url,
  })
  const [mail] = await well.waitForMails(1)
  assert.deepEqual([mail?.from, mail?.to], ['sluice@example.com', ['ops@example.net']])
  const raw = mail?.raw.toString() ?? ''
  assert.match(raw, /^Subject: \[Sluice\] /m)
  assert.match(raw, /error_rate/)
  const [row] = await database.query<{ id: string }>("select id from mail.message where stream = 'alerts'")
  const sent = await untilStatus(database, row?.id ?? '', 'sent')
  assert.deepEqual([sent.provider, sent.attempts], ['second', 1])
})

test('with no provider that is well the mail is not handed in: the delivery says so, and goes when one is', async (t) => {
  const database = await createTestDatabase(t)
  await addProvider(database, 'default')
  await makeRule(database)
  await addTeam(database)
  const notifier = openNotifier(database, [])
  await note(database, 'default', { faults: 5 })
  await setDeadLetters(database, 20)
  await evaluate(database)
  await notifier.look()
  await notifier.stop(new AbortController().signal)
  const [waiting] = await deliveriesOf(database)
  assert.match(
    waiting?.last_error ?? '',
    /^mail cannot go: no provider on the route of stream alerts is well/,
  )
  assert.deepEqual(await database.query('select from mail.outbox'), [])

  await database.query("select mail.close_breaker('default')")
  await database.query('update mail.alert_delivery set next_attempt_at = now()')
  await notifier.look()
  await untilState(database, 'team', 'sent')
  const mails = await database.query<{ message: { subject: string }; priority: number }>(
    'select message, priority from mail.outbox',
  )
  assert.deepEqual(
    mails.map(({ message, priority }) => [message.subject, priority]),
    [['[Sluice] warning: many (transactional)', 0]],
  )
})
