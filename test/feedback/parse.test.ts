import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { bounceOf } from '../../src/feedback/bounce-kind.ts'
import { FEEDBACK_TYPES, type FeedbackEvent } from '../../src/feedback/event.ts'
import { PARSERS } from '../../src/feedback/parse/parsers.ts'
import type { Report } from '../../src/feedback/parse/report.ts'

/** Those whose deliveries are JSON; mail is in mail-report.test.ts. */
type WebhookKind = keyof typeof PARSERS
const WEBHOOK_KINDS = Object.keys(PARSERS) as WebhookKind[]

const ID = '0197a2b4-7c1e-7d3a-9f00-1234567890ab'
const RECEIVED = new Date('2027-01-15T12:00:00.000Z')
const AT = '2027-01-15T11:59:58.000Z'
const AT_S = Date.parse(AT) / 1_000

function parse(kind: WebhookKind, body: unknown, eventKey = 'delivery-1'): Report {
  return PARSERS[kind]({
    endpoint: 'e',
    eventKey,
    receivedAt: RECEIVED,
    provider: 'main',
    body: Buffer.isBuffer(body) ? body : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)),
  })
}

/** The only event of a delivery, without its key. */
function only(report: Report): Omit<FeedbackEvent, 'key'> {
  assert.deepEqual([report.events.length, report.ignored, report.faults], [1, [], []])
  const [event] = report.events
  assert.ok(event)
  const { key, ...rest } = event
  assert.match(key, /^[a-z]+:[\w-]{43}$/)
  return rest
}

const COMMON = { at: new Date(AT), provider: 'main', recipient: 'ann@example.net' }

describe('SES', () => {
  const mail = {
    messageId: '0102018e-ses-id',
    destination: ['ann@example.net'],
    headers: [
      { name: 'Message-ID', value: `<${ID}@example.com>` },
      { name: 'X-Sluice-Id', value: ID },
    ],
    commonHeaders: { messageId: `<${ID}@example.com>` },
  }
  const match = { sluiceId: ID, messageId: `<${ID}@example.com>`, providerMessageId: '0102018e-ses-id' }
  const sns = (message: unknown) => ({
    Type: 'Notification',
    MessageId: 'sns-1',
    Message: typeof message === 'string' ? message : JSON.stringify(message),
  })
  const bounce = (changes: object, recipients: object[]) => ({
    mail,
    bounce: {
      bounceType: 'Permanent',
      bounceSubType: 'General',
      feedbackId: 'feedback-1',
      timestamp: AT,
      bouncedRecipients: recipients,
      ...changes,
    },
  })

  test('a delivery, published as an event', () => {
    const delivery = { timestamp: AT, recipients: ['Ann <ann@EXAMPLE.net>'], smtpResponse: '250 ok' }
    assert.deepEqual(only(parse('ses', sns({ eventType: 'Delivery', mail, delivery }))), {
      ...COMMON,
      type: 'delivered',
      match,
      detail: { reply: '250 ok' },
    })
  })

  test('a bounce of two recipients is two events, and the same ones in either shape', () => {
    const dead = {
      emailAddress: 'ann@example.net',
      status: '5.1.1',
      diagnosticCode: 'smtp; 550 5.1.1 user unknown',
    }
    const full = { emailAddress: 'bob@example.net', status: '5.2.2', diagnosticCode: 'smtp; 552 5.2.2 full' }
    const asEvent = parse('ses', sns({ eventType: 'Bounce', ...bounce({}, [dead, full]) }))
    const asNotification = parse('ses', sns({ notificationType: 'Bounce', ...bounce({}, [dead, full]) }))
    assert.deepEqual(asEvent.events, asNotification.events)
    assert.deepEqual(
      asEvent.events.map(({ type, recipient, bounce }) => [type, recipient, bounce?.kind, bounce?.code]),
      [
        ['bounced', 'ann@example.net', 'hard', '5.1.1'],
        ['bounced', 'bob@example.net', 'soft', '5.2.2'],
      ],
    )
    assert.equal(new Set(asEvent.events.map(({ key }) => key)).size, 2)
  })

  test('the kinds of bounces', () => {
    const kindOf = (bounceType: string, status: string, diagnosticCode: string) =>
      parse(
        'ses',
        sns({
          eventType: 'Bounce',
          ...bounce({ bounceType }, [{ emailAddress: 'a@b.example', status, diagnosticCode }]),
        }),
      ).events[0]?.bounce?.kind
    assert.equal(kindOf('Permanent', '5.7.1', 'smtp; 550 5.7.1 rejected'), 'undetermined')
    assert.equal(kindOf('Permanent', '4.4.7', 'expired'), 'soft')
    assert.equal(kindOf('Transient', '4.2.2', 'mailbox full'), 'soft')
    assert.equal(kindOf('Undetermined', '', ''), 'undetermined')
    assert.equal(kindOf('New', '', ''), 'undetermined')
  })

  test('a complaint says whether it is surely theirs; one that says not-spam is none', () => {
    const complaint = (changes: object) =>
      parse('ses', sns({ notificationType: 'Complaint', mail, complaint: { timestamp: AT, ...changes } }))
    const one = [{ emailAddress: 'ann@example.net' }]
    assert.partialDeepStrictEqual(
      only(complaint({ complainedRecipients: one, complaintFeedbackType: 'abuse' })),
      {
        type: 'complained',
        recipient: 'ann@example.net',
        detail: { is_one_of_several: false, feedback: 'abuse' },
      },
    )
    const two = complaint({ complainedRecipients: [...one, { emailAddress: 'bob@example.net' }] })
    assert.deepEqual(
      two.events.map(({ detail }) => detail?.is_one_of_several),
      [true, true],
    )
    assert.deepEqual(complaint({ complainedRecipients: one, complaintFeedbackType: 'not-spam' }).events, [])
  })

  test('delays, opens, clicks, rejections and unsubscribes', () => {
    const typeOf = (message: object) => only(parse('ses', sns({ mail, ...message })))
    assert.partialDeepStrictEqual(
      typeOf({
        eventType: 'DeliveryDelay',
        deliveryDelay: {
          delayType: 'MailboxFull',
          timestamp: AT,
          delayedRecipients: [{ emailAddress: 'ann@example.net', status: '4.2.2' }],
        },
      }),
      { type: 'deferred', recipient: 'ann@example.net', bounce: { kind: 'soft', code: '4.2.2' } },
    )
    assert.deepEqual(typeOf({ eventType: 'Open', open: { timestamp: AT, userAgent: 'Mail' } }), {
      ...COMMON,
      type: 'opened',
      match,
      detail: { user_agent: 'Mail' },
    })
    assert.partialDeepStrictEqual(
      typeOf({ eventType: 'Click', click: { timestamp: AT, link: 'https://example.com/a' } }),
      { type: 'clicked', detail: { url: 'https://example.com/a' } },
    )
    assert.equal(typeOf({ eventType: 'Reject', reject: { reason: 'Bad content' } }).type, 'rejected')
    assert.equal(
      typeOf({
        eventType: 'Subscription',
        subscription: { timestamp: AT, newTopicPreferences: { unsubscribeAll: true } },
      }).type,
      'unsubscribed',
    )
    const several = { ...mail, destination: ['ann@example.net', 'bob@example.net'] }
    const opened = only(parse('ses', sns({ eventType: 'Open', mail: several, open: { timestamp: AT } })))
    assert.equal(opened.recipient, undefined, 'nobody knows who of several it was')
  })

  test('what there is nothing to do about is no fault, and what is broken is one', () => {
    assert.deepEqual(parse('ses', sns({ eventType: 'Send', mail })).ignored, ['Send'])
    assert.deepEqual(parse('ses', sns({ eventType: 'Invented', mail })).ignored, ['Invented'])
    assert.equal(
      parse('ses', sns('Successfully validated SNS topic for Amazon SES event publishing.')).faults.length,
      0,
    )
    assert.deepEqual(parse('ses', { Type: 'UnsubscribeConfirmation' }).ignored, ['UnsubscribeConfirmation'])
    assert.equal(parse('ses', sns('{"mail"')).faults.length, 1)
    assert.equal(parse('ses', sns({ mail })).faults.length, 1)
    assert.equal(parse('ses', sns({ eventType: 'Bounce', ...bounce({}, []) })).faults.length, 1)
  })
})

describe('SendGrid', () => {
  const event = (changes: object) => ({
    email: 'ann@example.net',
    timestamp: AT_S,
    'smtp-id': `<${ID}@example.com>`,
    sg_event_id: `event-${JSON.stringify(changes)}`,
    sg_message_id: '14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0',
    sluice_id: ID,
    ...changes,
  })
  const match = {
    sluiceId: ID,
    messageId: `<${ID}@example.com>`,
    providerMessageId: '14c5d75ce93.dfd.64b469',
  }

  test('a batch is as many events, each with its own key', () => {
    const { events, ignored, faults } = parse('sendgrid', [
      event({ event: 'processed' }),
      event({ event: 'delivered', response: '250 OK' }),
      event({ event: 'open', useragent: 'Mail', sg_machine_open: true }),
      event({ event: 'click', url: 'https://example.com' }),
      event({ event: 'spamreport' }),
      event({ event: 'unsubscribe' }),
      event({ event: 'group_unsubscribe', asm_group_id: 10 }),
      event({ event: 'deferred', response: '450 4.2.1 busy', attempt: '3' }),
      event({ event: 'invented' }),
      { email: 'no event' },
      null,
    ])
    assert.deepEqual(
      events.map(({ type }) => type),
      ['delivered', 'opened', 'clicked', 'complained', 'unsubscribed', 'unsubscribed', 'deferred'],
    )
    assert.equal(new Set(events.map(({ key }) => key)).size, events.length)
    assert.deepEqual([ignored, faults.length], [['processed', 'invented'], 2])
    const [first] = events
    assert.deepEqual(first, {
      ...COMMON,
      key: first?.key,
      type: 'delivered',
      match,
      detail: { reply: '250 OK' },
    })
  })

  test('bounces by classification, type and code', () => {
    const kindOf = (changes: object) =>
      only(parse('sendgrid', [event({ event: 'bounce', type: 'bounce', ...changes })])).bounce
    assert.deepEqual(kindOf({ status: '5.1.1', reason: '550 5.1.1 no such user' }), {
      kind: 'hard',
      code: '5.1.1',
      reason: '550 5.1.1 no such user',
    })
    assert.equal(kindOf({ status: '5.2.2', type: 'blocked' })?.kind, 'soft')
    assert.equal(kindOf({ status: '5.0.0', bounce_classification: 'Reputation' })?.kind, 'undetermined')
    assert.equal(kindOf({ status: '5.0.0', bounce_classification: 'Mailbox Unavailable' })?.kind, 'soft')
    assert.equal(kindOf({ status: '5.0.0', bounce_classification: 'Invalid Address' })?.kind, 'hard')
    assert.equal(kindOf({ status: '5.7.1', reason: 'message refused' })?.kind, 'undetermined')
    assert.equal(kindOf({ reason: '550 rate limit exceeded' })?.kind, 'undetermined')
  })

  test('a drop for an earlier bounce is a hard bounce, any other drop a rejection', () => {
    const dropped = (reason: string) => only(parse('sendgrid', [event({ event: 'dropped', reason })]))
    assert.partialDeepStrictEqual(dropped('Bounced Address'), { type: 'bounced', bounce: { kind: 'hard' } })
    assert.partialDeepStrictEqual(dropped('Spam Reporting Address'), {
      type: 'rejected',
      detail: { reason: 'Spam Reporting Address' },
    })
  })
})

describe('Mailgun', () => {
  const body = (changes: object) => ({
    'event-data': {
      id: 'mailgun-1',
      timestamp: AT_S,
      recipient: 'ann@example.net',
      message: { headers: { 'message-id': `${ID}@example.com` } },
      'user-variables': { sluice_id: ID },
      ...changes,
    },
  })
  const match = { sluiceId: ID, messageId: `${ID}@example.com`, providerMessageId: `${ID}@example.com` }

  test('delivered, opened, clicked, complained, unsubscribed', () => {
    assert.deepEqual(
      only(parse('mailgun', body({ event: 'delivered', 'delivery-status': { message: 'OK' } }))),
      {
        ...COMMON,
        type: 'delivered',
        match,
        detail: { reply: 'OK' },
      },
    )
    for (const event of ['opened', 'clicked', 'complained', 'unsubscribed']) {
      assert.equal(only(parse('mailgun', body({ event }))).type, event)
    }
    assert.deepEqual(parse('mailgun', body({ event: 'accepted' })).ignored, ['accepted'])
    assert.equal(parse('mailgun', { signature: {} }).faults.length, 1)
  })

  test('failures by severity, reason and code', () => {
    const failed = (severity: string, reason: string, status: object = {}) =>
      only(parse('mailgun', body({ event: 'failed', severity, reason, 'delivery-status': status })))
    assert.partialDeepStrictEqual(
      failed('permanent', 'bounce', { 'enhanced-code': '5.1.1', message: 'unknown' }),
      {
        type: 'bounced',
        bounce: { kind: 'hard', code: '5.1.1', reason: 'unknown' },
      },
    )
    assert.equal(failed('permanent', 'suppress-bounce').bounce?.kind, 'hard')
    assert.equal(failed('permanent', 'old').bounce?.kind, 'soft')
    assert.equal(failed('permanent', 'espblock').bounce?.kind, 'undetermined')
    assert.equal(failed('permanent', 'generic', { message: '550 5.7.26 DMARC' }).bounce?.kind, 'undetermined')
    assert.equal(failed('permanent', 'suppress-unsubscribe').type, 'rejected')
    assert.partialDeepStrictEqual(failed('temporary', 'generic', { message: '451 4.3.0 later' }), {
      type: 'deferred',
      bounce: { kind: 'soft', code: '4.3.0' },
    })
  })
})

describe('Postmark', () => {
  const record = (RecordType: string, changes: object = {}) => ({
    RecordType,
    MessageID: 'b7bc2f4a-e38e-4336-af7d-e6c392c2f817',
    Metadata: { sluice_id: ID },
    ...changes,
  })
  const match = { sluiceId: ID, providerMessageId: 'b7bc2f4a-e38e-4336-af7d-e6c392c2f817' }

  test('each record', () => {
    const told = (type: string, changes: object) => only(parse('postmark', record(type, changes)))
    const at = { Recipient: 'ann@example.net', ReceivedAt: AT }
    assert.deepEqual(told('Delivery', { Recipient: 'ann@example.net', DeliveredAt: AT, Details: 'ok' }), {
      ...COMMON,
      type: 'delivered',
      match,
      detail: { reply: 'ok' },
    })
    assert.equal(told('Open', at).type, 'opened')
    assert.deepEqual(told('Click', { ...at, OriginalLink: 'https://example.com' }).detail, {
      url: 'https://example.com',
    })
    assert.partialDeepStrictEqual(told('SpamComplaint', { Email: 'ann@example.net', BouncedAt: AT }), {
      ...COMMON,
      type: 'complained',
    })
    const change = { Recipient: 'ann@example.net', ChangedAt: AT, SuppressSending: true }
    assert.equal(
      told('SubscriptionChange', { ...change, SuppressionReason: 'ManualSuppression' }).type,
      'unsubscribed',
    )
    for (const reason of ['HardBounce', 'SpamComplaint']) {
      const report = parse('postmark', record('SubscriptionChange', { ...change, SuppressionReason: reason }))
      assert.deepEqual(report.events, [])
    }
    assert.deepEqual(parse('postmark', record('Inbound')).ignored, ['Inbound'])
    assert.equal(parse('postmark', '[]').faults.length, 1)
  })

  test('bounces by their type', () => {
    const bounced = (Type: string, Details = 'x') =>
      parse('postmark', record('Bounce', { ID: 42, Type, Details, Email: 'ann@example.net', BouncedAt: AT }))
    assert.partialDeepStrictEqual(only(bounced('HardBounce', 'smtp;550 5.1.1 unknown')), {
      type: 'bounced',
      bounce: { kind: 'hard', code: '5.1.1' },
    })
    assert.equal(only(bounced('HardBounce', 'smtp;550 5.7.1 policy')).bounce?.kind, 'undetermined')
    assert.equal(only(bounced('SoftBounce')).bounce?.kind, 'soft')
    assert.equal(only(bounced('SpamNotification')).bounce?.kind, 'undetermined')
    assert.equal(only(bounced('Unsubscribe')).type, 'unsubscribed')
    assert.equal(only(bounced('SMTPApiError')).type, 'rejected')
    for (const type of ['AutoResponder', 'AddressChange', 'constructor']) {
      assert.deepEqual(bounced(type).ignored, [`Bounce of type ${type}`])
    }
  })
})

describe('Resend', () => {
  const event = (type: string, changes: object = {}) => ({
    type,
    created_at: AT,
    data: {
      email_id: '56761188-7520-42d8-8898-ff6fc54ce618',
      to: ['ann@example.net'],
      message_id: `<${ID}@example.com>`,
      tags: { sluice_id: ID },
      ...changes,
    },
  })
  const match = {
    sluiceId: ID,
    messageId: `<${ID}@example.com>`,
    providerMessageId: '56761188-7520-42d8-8898-ff6fc54ce618',
  }

  test('each type', () => {
    const { recipient: _, ...common } = COMMON
    assert.deepEqual(only(parse('resend', event('email.delivered'))), { ...common, type: 'delivered', match })
    for (const [name, type] of [
      ['email.delivery_delayed', 'deferred'],
      ['email.complained', 'complained'],
      ['email.opened', 'opened'],
      ['email.failed', 'rejected'],
      ['email.suppressed', 'rejected'],
    ] as const) {
      assert.equal(only(parse('resend', event(name))).type, type)
    }
    const link = { click: { link: 'https://example.com', userAgent: 'Mail' } }
    assert.deepEqual(only(parse('resend', event('email.clicked', link))).detail, {
      url: 'https://example.com',
      user_agent: 'Mail',
    })
    for (const name of ['email.sent', 'email.received', 'contact.created', 'toString']) {
      assert.deepEqual(parse('resend', event(name)).ignored, [name])
    }
  })

  test('bounces by type, code and words', () => {
    const kindOf = (type: string, message: string) =>
      only(parse('resend', event('email.bounced', { bounce: { type, subType: 'General', message } }))).bounce
    assert.deepEqual(kindOf('Permanent', 'smtp; 550 5.1.1 unknown'), {
      kind: 'hard',
      code: '5.1.1',
      reason: 'smtp; 550 5.1.1 unknown',
    })
    assert.equal(kindOf('Transient', 'full')?.kind, 'soft')
    assert.equal(kindOf('Permanent', 'blocked by policy')?.kind, 'undetermined')
    assert.equal(kindOf('New', 'x')?.kind, 'undetermined')
  })

  test('has the key of its delivery, and names nobody', () => {
    const keyOf = (delivery: string) => parse('resend', event('email.opened'), delivery).events[0]?.key
    assert.equal(keyOf('msg_1'), keyOf('msg_1'))
    assert.notEqual(keyOf('msg_1'), keyOf('msg_2'))
    // A copy's bounce comes with the same `to`: one address in it is not whose it is.
    for (const to of [['a@example.net', 'b@example.net'], ['a@example.net']]) {
      assert.equal(only(parse('resend', event('email.bounced', { to }))).recipient, undefined)
    }
  })
})

describe('generic', () => {
  test('is what the documentation says', () => {
    const body = {
      events: [
        {
          key: 'mta-1',
          type: 'bounced',
          at: AT,
          recipient: 'ann@Example.NET',
          sluice_id: ID.toUpperCase(),
          message_id: `<${ID}@example.com>`,
          provider_message_id: 'queue-1',
          bounce: { kind: 'hard', code: '5.1.1', reason: 'user unknown' },
          detail: { mx: 'mx.example.net', nested: { is: 'dropped' } },
        },
      ],
    }
    assert.deepEqual(only(parse('generic', body)), {
      ...COMMON,
      type: 'bounced',
      match: { sluiceId: ID, messageId: `<${ID}@example.com>`, providerMessageId: 'queue-1' },
      bounce: { kind: 'hard', code: '5.1.1', reason: 'user unknown' },
      detail: { mx: 'mx.example.net' },
    })
    assert.deepEqual(parse('generic', { events: [{ type: 'invented' }] }).ignored, ['invented'])
    assert.deepEqual(parse('generic', { events: [{}, { type: 'opened' }] }).faults, [
      'events[0] has no `type`',
    ])
    assert.equal(parse('generic', []).faults.length, 1)
  })
})

describe('a bounce', () => {
  test('of policy, rate or reputation is never hard, in whatever words', () => {
    for (const reason of [
      '550 5.7.1 Message rejected due to policy',
      '550-5.7.26 unauthenticated mail',
      '554 Your access to this mail system has been rejected due to poor reputation of a domain',
      '550 Rate limit exceeded',
      '550 Too many messages from your host',
      '554 5.1.0 blocked using zen.spamhaus.org, listed in RBL',
      '550 blacklisted',
      '550 greylisted, please try again',
      '550 SPF check failed',
      '550 considered spam',
    ]) {
      assert.equal(bounceOf('hard', undefined, reason).kind, 'undetermined', reason)
      assert.equal(bounceOf('soft', undefined, reason).kind, 'undetermined', reason)
    }
  })

  test('of an address stays hard, also where a name in it looks like policy', () => {
    for (const reason of [
      '550 5.1.1 <ann@policy.example>: user unknown',
      '550 5.1.1 no such user, see https://example.com/spam-policy',
      'smtp; 550 5.1.1 The email account that you tried to reach does not exist',
      '550 5.4.1 Recipient address rejected: Access denied',
      '550 no such user at 5.7.1.2',
    ]) {
      assert.equal(bounceOf('hard', undefined, reason).kind, 'hard', reason)
    }
  })
})

describe('whatever comes', () => {
  /** JSON made of the words the parsers look for, in places where they do not belong. */
  const words = [
    ...['Type', 'Message', 'eventType', 'notificationType', 'mail', 'headers', 'bounce', 'bouncedRecipients'],
    ...[
      'event',
      'email',
      'timestamp',
      'sg_event_id',
      'event-data',
      'delivery-status',
      'user-variables',
      'severity',
    ],
    ...[
      'RecordType',
      'MessageID',
      'Metadata',
      'type',
      'data',
      'to',
      'tags',
      'created_at',
      'events',
      'recipient',
    ],
    ...[
      'Notification',
      'Bounce',
      'Complaint',
      'Delivery',
      'Open',
      'delivered',
      'bounced',
      'failed',
      'email.bounced',
    ],
    ...['__proto__', 'constructor', 'toString', 'at', 'key', 'detail', 'reason', 'sluice_id', 'destination'],
  ]
  const word = fc.oneof(fc.constantFrom(...words), fc.string({ unit: 'binary' }))
  const { tree } = fc.letrec((tie) => ({
    tree: fc.oneof(
      { maxDepth: 6 },
      word,
      fc.constantFrom(null, true, 0, -1, 1e308, AT_S, AT),
      fc.array(tie('tree'), { maxLength: 4 }),
      fc.dictionary(word, tie('tree'), { maxKeys: 6 }),
    ),
  }))

  for (const kind of WEBHOOK_KINDS) {
    test(`${kind}: nothing throws, and every event is one that can be stored`, () => {
      const check = (body: unknown) => {
        for (const event of parse(kind, body).events) {
          assert.ok(FEEDBACK_TYPES.includes(event.type))
          const text = JSON.stringify(event)
          assert.ok(text.isWellFormed() && !/\\u0000|\\ud[89a-f]/i.test(text), text)
          assert.ok(event.at.getTime() >= Date.UTC(2000, 0, 1), String(event.at))
          assert.ok(event.key.length < 100)
        }
      }
      fc.assert(fc.property(fc.uint8Array(), (bytes) => check(Buffer.from(bytes))))
      fc.assert(
        fc.property(tree, (json) => {
          check(json)
          check([json])
          check({ Type: 'Notification', Message: JSON.stringify(json) })
          check({ 'event-data': json })
          check({ events: [json] })
        }),
        { numRuns: 500 },
      )
      check('['.repeat(500_000))
      check(`{"a":${'['.repeat(500_000)}`)
    })
  }
})
