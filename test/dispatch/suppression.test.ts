import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { suppressions } from '../support/feedback.ts'
import { deadLetterOf, eventTypesOf, post, readMessage, untilStatus } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'

const GONE = { code: 550, text: '5.1.1 No such user' }

async function suppressedOf({ query }: TestDatabase, id: string): Promise<string[]> {
  const rows = await query<{ recipient: string }>(
    "select recipient from mail.event where message_id = $1 and type = 'suppressed' and recipient is not null order by 1",
    [id],
  )
  return rows.map(({ recipient }) => recipient)
}

describe('an address suppressed between processing and sending', () => {
  test('is left out, in to, cc and bcc; a message with nobody left in to is not sent', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    await database.query("select mail.pause('transactional')")
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const some = await post(service, {
      to: ['Late@example.net', 'ann@example.net'],
      cc: ['late-cc@example.net', 'cy@example.net'],
      bcc: ['late-bcc@example.net', 'bo@example.net'],
    })
    const nobody = await post(service, { to: ['late@example.net'], cc: ['cy@example.net'] })
    await untilStatus(database, some, 'queued')
    await untilStatus(database, nobody, 'queued')
    await database.query("select mail.suppress_many('{late@example.net,late-cc@example.net}')")
    await database.query("select mail.suppress('late-bcc@example.net', 'x', 'transactional')")
    await database.query("select mail.suppress('ann@example.net', 'x', 'marketing')")
    await database.query("select mail.resume('transactional')")
    await untilStatus(database, some, 'sent')
    const ended = await untilStatus(database, nobody, 'suppressed')
    assert.deepEqual([ended.worker, ended.attempts], [null, 0])
    assert.deepEqual(
      sink.mails.map(({ to }) => to.toSorted()),
      [['ann@example.net', 'bo@example.net', 'cy@example.net']],
    )
    assert.doesNotMatch(sink.mails[0]?.raw.toString().toLowerCase() ?? '', /late/)
    assert.deepEqual(await suppressedOf(database, some), [
      'late-bcc@example.net',
      'late-cc@example.net',
      'late@example.net',
    ])
    assert.deepEqual(await eventTypesOf(database, nobody), ['accepted', 'queued', 'suppressed', 'suppressed'])
    const jobs = await database.query(
      "select from pgboss.job where name like 'dispatch.%' and state < 'completed'",
    )
    assert.equal(jobs.length, 0)
  })

  test('nothing is sent while the list cannot be read', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    await database.query("select mail.pause('transactional')")
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const id = await post(service)
    await untilStatus(database, id, 'queued')
    await database.query('alter table mail.suppression rename to away')
    await database.query("select mail.resume('transactional')")
    await post(service, { to: ['other@example.net'] })
    await eventually('the message was tried to be claimed, in vain', async () => {
      const [row] = await database.query<{ aborted: string }>(
        'select xact_rollback as aborted from pg_stat_database where datname = current_database()',
      )
      return Number(row?.aborted) > 1
    })
    assert.equal((await readMessage(database, id))?.status, 'queued')
    assert.equal(sink.mails.length, 0)
    await database.query('alter table mail.away rename to suppression')
    await untilStatus(database, id, 'sent')
  })

  test('ends a message as sent when an earlier attempt reached the others', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t, {
      onRecipient: (address) =>
        address === 'busy@example.net' ? { code: 450, text: '4.2.1 Mailbox busy' } : undefined,
    })
    await database.query('update mail.stream set backoff_base_s = 1, backoff_cap_s = 1')
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const id = await post(service, { to: ['ann@example.net', 'busy@example.net'] })
    await untilStatus(database, id, 'deferred')
    await database.query("select mail.suppress('busy@example.net')")
    await untilStatus(database, id, 'sent')
    assert.equal(sink.mails.length, 1)
    assert.deepEqual(await suppressedOf(database, id), ['busy@example.net'])
  })
})

describe('a recipient that the relay refuses for good', () => {
  test('is suppressed by the code, alone or among others, and gets no more mail', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t, {
      onRecipient: (address) => {
        if (/^gone/i.test(address)) return GONE
        return address.startsWith('blocked') ? { code: 550, text: '5.7.1 Blocked' } : undefined
      },
    })
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const alone = await post(service, { to: ['gone-1@example.net'] })
    const among = await post(service, { to: ['Gone-2@example.net', 'ann@example.net'] })
    const both = await post(service, { to: ['gone-3@example.net', 'blocked@example.net'] })
    await untilStatus(database, among, 'sent')
    assert.equal((await deadLetterOf(database, alone)).code, 'bad_recipient')
    assert.equal((await deadLetterOf(database, both)).code, 'policy_refused')
    const listed = await suppressions(database)
    assert.deepEqual(
      listed.map(({ address, origin, evidence }) => [address, origin, evidence?.code, evidence?.message_id]),
      [
        ['gone-1@example.net', 'bounce', '5.1.1', alone],
        ['gone-2@example.net', 'bounce', '5.1.1', among],
        ['gone-3@example.net', 'bounce', '5.1.1', both],
      ],
    )
    const again = await post(service, { to: ['gone-1@example.net'] })
    await untilStatus(database, again, 'suppressed')
    const refused = await database.query(
      "select recipient from mail.event where message_id = $1 and type = 'recipient_refused' order by 1",
      [both],
    )
    assert.deepEqual(refused, [{ recipient: 'blocked@example.net' }, { recipient: 'gone-3@example.net' }])
  })

  test('does not come again with those that were told "not now", but with a dead letter that is retried', async (t) => {
    const database = await createTestDatabase(t)
    const refusals = new Map([
      ['never@example.net', { code: 550, text: '5.4.4 No route' }],
      ['later@example.net', { code: 450, text: '4.2.1 Mailbox busy' }],
    ])
    const sink = await startSmtpSink(t, { onRecipient: (address) => refusals.get(address) })
    await database.query('update mail.stream set attempts = 2, backoff_base_s = 1, backoff_cap_s = 1')
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const id = await post(service, { to: ['never@example.net', 'later@example.net'] })
    await deadLetterOf(database, id)
    assert.equal((await eventTypesOf(database, id)).filter((type) => type === 'recipient_refused').length, 1)
    refusals.clear()
    await database.query('select mail.dlq_retry($1::uuid)', [id])
    await untilStatus(database, id, 'sent')
    assert.deepEqual(
      sink.mails.map(({ to }) => to.toSorted()),
      [['later@example.net', 'never@example.net']],
    )
  })
})
