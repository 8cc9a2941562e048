import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from './support/database.ts'
import { apply, eventOf, insertMessages, openTestPool } from './support/feedback.ts'
import { deadLetterOf, post, untilStatus } from './support/messages.ts'
import { startTestService, type TestService } from './support/service.ts'
import { startSmtpSink } from './support/smtp-sink.ts'

type Stored = {
  readonly message: Readonly<Record<string, unknown>> | null
  readonly is_removed: boolean
  readonly is_prepared: boolean
}

async function contentOf({ query }: Pick<TestDatabase, 'query'>, id: string): Promise<Stored | undefined> {
  const [row] = await query<Stored>(
    `select message, removed_at is not null as is_removed,
       exists (select from mail.message_prepared p where p.id = c.id) as is_prepared
     from mail.message_content c where id = $1`,
    [id],
  )
  return row
}

const TEMPLATE = { html: '<p>Hi {{ name }}</p>', from: 'Shop <shop@example.com>', subject: 'For {{ name }}' }

async function publishTemplate(service: TestService): Promise<void> {
  const made = await service.request('/templates', { body: { name: 'welcome', ...TEMPLATE } })
  const { id } = (await made.json()) as { id: string }
  const published = await service.request(`/templates/${id}/publish`, { method: 'POST' })
  assert.equal(published.status, 200)
}

describe('a stream that keeps content for no day', () => {
  const keepNothing = "update mail.stream set content_days = 0 where name = 'transactional'"

  test('has the envelope alone once a message is sent, its sender from the template', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    await database.query(keepNothing)
    const service = await startTestService(database, { SMTP_URL: sink.url })
    await publishTemplate(service)
    const tags = [{ name: 'kind', value: 'welcome' }]
    const response = await service.request('/emails', {
      body: { to: 'ann@example.net', template: { id: 'welcome', variables: { name: 'Ann' } }, tags },
    })
    const { id } = (await response.json()) as { id: string }
    await untilStatus(database, id, 'sent')
    assert.match(sink.mails[0]?.raw.toString() ?? '', /Hi Ann/)
    assert.deepEqual(await contentOf(database, id), {
      message: {
        from: { address: 'shop@example.com', name: 'Shop' },
        to: [{ address: 'ann@example.net' }],
        cc: [],
        bcc: [],
        reply_to: [],
        tags,
        metadata: {},
      },
      is_removed: true,
      is_prepared: false,
    })
    const shown = (await (await service.request(`/emails/${id}`)).json()) as Record<string, unknown>
    assert.deepEqual(
      [shown.to, shown.from, shown.subject, shown.html, shown.content_removed],
      [['ann@example.net'], 'Shop <shop@example.com>', null, null, true],
    )
  })

  test('keeps it while a message waits or can be retried, and lets go when it is given up', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t, { onRecipient: () => ({ code: 550, text: '5.7.1 Not you' }) })
    await database.query(keepNothing)
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const waiting = await post(service, { scheduled_at: 'in 1 hour' })
    const dead = await post(service)
    await deadLetterOf(database, dead)
    for (const id of [waiting, dead]) assert.equal((await contentOf(database, id))?.is_removed, false)

    await database.query('select mail.cancel($1)', [waiting])
    await database.query('select mail.dlq_discard($1::uuid)', [dead])
    for (const id of [waiting, dead]) {
      const stored = await contentOf(database, id)
      assert.deepEqual([stored?.is_removed, stored?.message?.text], [true, undefined])
    }
  })

  test('keeps nothing of a message whose every recipient is suppressed', async (t) => {
    const database = await createTestDatabase(t)
    const sink = await startSmtpSink(t)
    await database.query(keepNothing)
    await database.query("select mail.suppress('ann@example.net'), mail.pause('transactional')")
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const early = await post(service)
    await untilStatus(database, early, 'suppressed')
    const late = await post(service, { to: 'bob@example.net' })
    await untilStatus(database, late, 'queued')
    await database.query("select mail.suppress('bob@example.net')")
    await database.query("select mail.resume('transactional')")
    await untilStatus(database, late, 'suppressed')
    for (const id of [early, late]) assert.equal((await contentOf(database, id))?.is_removed, true)
  })

  test('lets go of what was in doubt when a provider or a person settles it, and still believes its bounces', async (t) => {
    const database = await createTestDatabase(t)
    const db = openTestPool(database)
    await database.query(keepNothing)
    const [told = '', said = ''] = await insertMessages(database, [
      { status: 'unknown', to: ['ann@example.net'] },
      { status: 'unknown', to: ['bob@example.net'] },
    ])
    await database.query("insert into mail.event (message_id, type) select id, 'accepted' from mail.message")
    await apply(db, [eventOf(told, 'opened')])
    await database.query("select mail.settle_unknown($1, 'sent')", [said])
    for (const id of [told, said]) assert.equal((await contentOf(database, id))?.is_removed, true)

    await apply(db, [
      eventOf(said, 'bounced', {
        recipient: 'bob@example.net',
        detail: { kind: 'hard', enhanced_code: '5.1.1' },
      }),
    ])
    const listed = await database.query('select address from mail.suppression')
    assert.deepEqual(listed, [{ address: 'bob@example.net' }])
  })
})

test('a dead letter without its content says why it cannot be sent again', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t, { onRecipient: () => ({ code: 550, text: '5.7.1 Not you' }) })
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service)
  await deadLetterOf(database, id)
  await database.query('delete from mail.message_content where id = $1', [id])
  await assert.rejects(database.query('select mail.dlq_retry($1::uuid)', [id]), {
    code: '55000',
    message: /was removed, so it cannot be sent again/,
    hint: /mail\.dlq_discard/,
  })
  const response = await service.request('/dead-letters/retry', { body: { id } })
  assert.equal(response.status, 422)
  assert.match(((await response.json()) as { message: string }).message, /was removed/)
  const whole = await post(service)
  await deadLetterOf(database, whole)
  await database.query("select mail.pause('transactional')")
  const [retried] = await database.query(`select mail.dlq_retry('{"stage":"dispatch"}', 10) as count`)
  assert.deepEqual(retried, { count: 1 })
  await untilStatus(database, id, 'dead')
  const [told] = await database.query<{ why: string }>('select mail.why($1)', [id])
  assert.match(told?.why ?? '', /5\.7\.1 Not you \(Its content was removed/)
  const shown = (await (await service.request(`/emails/${id}`)).json()) as Record<string, unknown>
  assert.deepEqual([shown.status, shown.to, shown.content_removed], ['dead', [], true])
})

test('a stream that keeps content keeps it', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await startTestService(database, { SMTP_URL: sink.url })
  const id = await post(service)
  await untilStatus(database, id, 'sent')
  const stored = await contentOf(database, id)
  assert.deepEqual([stored?.is_removed, stored?.message?.text], [false, 'Thank you.'])
})
