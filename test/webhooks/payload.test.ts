import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deliveryOfJob, jobIdOf } from '../../src/webhooks/job.ts'
import { deliveryIdOf, eventTypesOf, payloadOf, webhookTypeOf } from '../../src/webhooks/payload.ts'
import type { FeedEvent } from '../../src/webhooks/queries.ts'

const ID = '01995a00-0000-7000-8000-000000000001'
const AT = new Date('2026-11-21T10:00:05.000Z')

function eventOf(type: string, changes: Partial<FeedEvent> = {}): FeedEvent {
  return {
    cursor: '7:42',
    event_id: '42',
    message_id: ID,
    at: AT,
    type,
    recipient: null,
    detail: null,
    accepted_at: new Date('2026-11-21T10:00:00.000Z'),
    stream: 'transactional',
    from: { address: 'shop@example.com', name: 'The Shop' },
    sender: null,
    to: [{ address: 'ann@example.net' }],
    subject: 'Your order',
    tags: [{ name: 'kind', value: 'order' }],
    metadata: { order: '17' },
    reason: null,
    ...changes,
  }
}

function bodyOf(event: FeedEvent) {
  const type = webhookTypeOf(event)
  assert.ok(type)
  return payloadOf(type, event) as { type: string; created_at: string; data: Record<string, unknown> }
}

test('the body is in Resend’s shape, with tags as an object', () => {
  assert.deepEqual(bodyOf(eventOf('sent')), {
    type: 'email.sent',
    created_at: '2026-11-21T10:00:05.000Z',
    data: {
      email_id: ID,
      message_id: `<${ID}@example.com>`,
      from: 'The Shop <shop@example.com>',
      to: ['ann@example.net'],
      subject: 'Your order',
      created_at: '2026-11-21T10:00:00.000Z',
      tags: { kind: 'order' },
      stream: 'transactional',
      metadata: { order: '17' },
    },
  })
})

test('a bounce says whose, how bad and why, in the words of SES', () => {
  const told = { kind: 'hard', enhanced_code: '5.1.1', reason: 'user unknown' }
  const { type, data } = bodyOf(eventOf('bounced', { recipient: 'ann@example.net', detail: told }))
  assert.equal(type, 'email.bounced')
  assert.equal(data.recipient, 'ann@example.net')
  const hard = { message: 'user unknown', type: 'Permanent', subType: 'General', code: '5.1.1' }
  assert.deepEqual(data.bounce, hard)
  const bounceOf = (event: FeedEvent) => bodyOf(event).data.bounce as { type: string }
  assert.equal(bounceOf(eventOf('bounced', { detail: { kind: 'soft' } })).type, 'Transient')
  assert.equal(bounceOf(eventOf('bounced')).type, 'Undetermined')
  assert.deepEqual(
    bodyOf(eventOf('recipient_refused', { detail: { reply: 'user unknown', enhanced_code: '5.1.1' } })).data
      .bounce,
    hard,
  )
})

test('clicks, failures and delays carry their detail', () => {
  const click = { url: 'https://shop.example.com/', user_agent: 'Mozilla/5.0' }
  assert.deepEqual(bodyOf(eventOf('clicked', { detail: click })).data.click, {
    link: 'https://shop.example.com/',
    timestamp: '2026-11-21T10:00:05.000Z',
    userAgent: 'Mozilla/5.0',
    ipAddress: '',
  })
  assert.deepEqual(bodyOf(eventOf('dead', { reason: '550 no such user' })).data.failed, {
    reason: '550 no such user',
  })
  assert.deepEqual(bodyOf(eventOf('dead', { detail: { code: 'expired' } })).data.failed, {
    reason: 'expired',
  })
  assert.deepEqual(bodyOf(eventOf('deferred', { detail: { reply: '451 later' } })).data.delayed, {
    reason: '451 later',
  })
})

test('what could never be read is told of with what is known of it', () => {
  const unread = eventOf('dead', {
    ...{ from: null, to: null, subject: null, tags: null, metadata: null, accepted_at: null, stream: null },
    reason: 'to: missing',
  })
  const { data } = bodyOf(unread)
  assert.deepEqual([data.from, data.to, data.tags], [null, [], {}])
  assert.deepEqual(data.failed, { reason: 'to: missing' })
})

test('steps on the way are told to nobody', () => {
  for (const type of ['accepted', 'queued', 'unreachable', 'recovered', 'recipient_sent', 'retried']) {
    assert.equal(webhookTypeOf({ type, recipient: null }), undefined)
  }
  assert.equal(
    webhookTypeOf({ type: 'suppressed', recipient: null }),
    undefined,
    'each recipient has an event',
  )
  assert.equal(webhookTypeOf({ type: 'suppressed', recipient: 'ann@example.net' }), 'email.suppressed')
  assert.deepEqual(eventTypesOf([]), [])
  assert.deepEqual(eventTypesOf([['email.bounced'], ['email.sent']]).sort(), [
    'bounced',
    'recipient_refused',
    'sent',
  ])
})

test('a delivery’s id is the same for the same event and endpoint, differs otherwise, and is its job’s', () => {
  const id = deliveryIdOf('endpoint', eventOf('sent'))
  assert.match(id, /^msg_[0-9a-f]{32}$/)
  assert.equal(deliveryIdOf('endpoint', eventOf('sent')), id)
  assert.notEqual(deliveryIdOf('other', eventOf('sent')), id)
  assert.notEqual(deliveryIdOf('endpoint', eventOf('sent', { event_id: '43' })), id)
  assert.ok(deliveryIdOf('endpoint', eventOf('sent', { at: new Date(AT.getTime() + 1) })) > id)
  assert.match(jobIdOf(id), /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
  assert.equal(deliveryOfJob(jobIdOf(id)), id)
})
