import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { Client } from 'pg'
import { emailSchema } from '../../src/http/openapi/email-answers.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, startTestService, type TestService } from '../support/service.ts'

let database: TestDatabase
let service: TestService
let blocker: Client

/** A mover that cannot commit: what comes in stays at the doors, as in a flood. */
before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
  blocker = new Client({ connectionString: database.url })
  await blocker.connect()
  database.beforeDrop(() => blocker.end())
  await blocker.query('begin')
  await blocker.query('lock table mail.message_content in share mode')
  await database.query('update mail.intake_limit set soft_backlog = 10, hard_backlog = 100')
})

const BUFFERED = { 'Sluice-Durability': 'buffered' }
const LATER = orderMail({ stream: 'marketing' })
const BULK = {
  message: { from: 'a@example.com', subject: 'x', text: 'x' },
  recipients: [{ to: 'b@example.com' }],
}

async function insert(count: number): Promise<void> {
  await database.query('insert into mail.outbox (message) select $1 from generate_series(1, $2::integer)', [
    JSON.stringify(LATER),
    count,
  ])
}

async function answerOf(path: string, body: unknown): Promise<[status: number, name: string | undefined]> {
  const response = await service.request(path, { body, headers: BUFFERED })
  const { name } = (await response.json()) as { name?: string }
  if (response.status !== 200) assert.ok(Number(response.headers.get('Retry-After')) >= 1)
  return [response.status, name]
}

function untilRefused(body: unknown, status: number) {
  return eventually(`a ${status}`, async () => (await answerOf('/emails', body))[0] === status)
}

test('past the soft limit less urgent mail gets 429 at every door of REST, urgent mail is taken', async () => {
  assert.deepEqual(await answerOf('/emails', LATER), [200, undefined])
  await insert(20)
  await untilRefused(LATER, 429)
  const refused = [429, 'rate_limit_exceeded']
  assert.deepEqual(await answerOf('/emails', LATER), refused)
  assert.deepEqual(await answerOf('/emails/batch', [orderMail(), LATER]), refused)
  assert.deepEqual(await answerOf('/emails/bulk', BULK), refused)
  // A message's own priority orders it within its stream, and makes nothing urgent.
  assert.deepEqual(await answerOf('/emails', { ...LATER, priority: 0 }), refused)
  assert.deepEqual(await answerOf('/emails', orderMail()), [200, undefined])
  assert.deepEqual(await answerOf('/emails/batch', [orderMail()]), [200, undefined])
  const urgentBulk = { ...BULK, message: { ...BULK.message, stream: 'alerts' } }
  assert.deepEqual(await answerOf('/emails/bulk', urgentBulk), [200, undefined])
})

test('past the hard limit all gets 503, before its body is looked at; SQL goes on', async () => {
  await insert(100)
  await untilRefused(orderMail(), 503)
  const refused = [503, 'service_unavailable']
  for (const path of ['/emails', '/emails/batch', '/emails/bulk']) {
    assert.deepEqual(await answerOf(path, 'not even JSON'), refused)
  }
  await insert(1)
})

test('when the doors are empty again everything is taken again', async () => {
  await blocker.query('rollback')
  await eventually('an acceptance', async () => (await answerOf('/emails', LATER))[0] === 200)
  assert.deepEqual(await answerOf('/emails/bulk', BULK), [200, undefined])
})

test('an email that waits at the door is shown whole, as it was given', async () => {
  await database.query('update mail.intake_limit set soft_backlog = 100000, hard_backlog = 1000000')
  await blocker.query('begin')
  await blocker.query('lock table mail.message_content in share mode')
  const body = orderMail({ tags: [{ name: 'kind', value: 'order' }], scheduled_at: 'in 1 hour' })
  const id = await eventually('it is taken', async () => {
    const response = await service.request('/emails', { body, headers: BUFFERED })
    return response.status === 200 && ((await response.json()) as { id: string }).id
  })
  const response = await service.request(`/emails/${id}`)
  const shown = emailSchema.parse(await response.json())
  assert.partialDeepStrictEqual(shown, {
    id,
    status: 'accepted',
    last_event: 'queued',
    from: 'Shop <shop@example.com>',
    to: ['ann@example.net'],
    subject: 'Your order',
    html: '<p>Thank you.</p>',
    tags: [{ name: 'kind', value: 'order' }],
    stream: 'transactional',
    priority: 3,
    timeline: [],
  })
  assert.ok(Date.parse(shown.scheduled_at ?? '') > Date.now())
  await blocker.query('rollback')
})
