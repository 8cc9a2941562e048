import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { verifyMailgun } from '../../src/feedback/verify/mailgun.ts'
import { verifyPostmark } from '../../src/feedback/verify/postmark.ts'
import type { Delivery, Verdict } from '../../src/feedback/verify/proof.ts'
import { verifySendGrid } from '../../src/feedback/verify/sendgrid.ts'
import { verifyStandardWebhook } from '../../src/feedback/verify/standard-webhooks.ts'
import {
  type Call,
  deliveryOf,
  MAILGUN_SECRET,
  mailgunCall,
  POSTMARK_SECRET,
  postmarkCall,
  SENDGRID_SECRET,
  STANDARD_SECRET,
  sendGridCall,
  standardCall,
} from './proofs.ts'

const NOW = Date.UTC(2027, 0, 15, 12)
const MINUTE = 60_000
const BODY = '{"type":"email.bounced","data":{"to":["ann@example.net"]}}'

type Verify = (delivery: Delivery, secrets: readonly string[], nowMs: number) => Verdict

/** A verdict in one word: proved, or the reason. */
function judge(verify: Verify, call: Call, secrets: readonly string[], nowMs = NOW): string {
  const verdict = verify(deliveryOf(call), secrets, nowMs)
  return 'reason' in verdict ? verdict.reason : verdict.kind
}

type Scheme = {
  readonly name: string
  readonly verify: Verify
  readonly call: Call
  readonly secret: string
  readonly wrongSecret: string
  /** Milliseconds that a proof may be old, and ahead. */
  readonly past: number
  readonly future: number
  readonly isBodySigned: boolean
}

const SCHEMES: readonly Scheme[] = [
  {
    name: 'Resend (Svix)',
    verify: verifyStandardWebhook,
    call: standardCall(BODY, NOW),
    secret: STANDARD_SECRET,
    wrongSecret: `whsec_${Buffer.alloc(24, 8).toString('base64')}`,
    past: 5 * MINUTE,
    future: 5 * MINUTE,
    isBodySigned: true,
  },
  {
    name: 'generic (Standard Webhooks)',
    verify: verifyStandardWebhook,
    call: standardCall(BODY, NOW, { prefix: 'webhook' }),
    secret: STANDARD_SECRET.replace('whsec_', ''),
    wrongSecret: Buffer.alloc(24, 8).toString('base64'),
    past: 5 * MINUTE,
    future: 5 * MINUTE,
    isBodySigned: true,
  },
  {
    name: 'SendGrid',
    verify: verifySendGrid,
    call: sendGridCall(`[${BODY}]`, NOW),
    secret: SENDGRID_SECRET,
    // The key of SendGrid's published example.
    wrongSecret:
      'MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==',
    past: 10 * MINUTE,
    future: 10 * MINUTE,
    isBodySigned: true,
  },
  {
    name: 'Mailgun',
    verify: verifyMailgun,
    call: mailgunCall({ event: 'delivered' }, NOW),
    secret: MAILGUN_SECRET,
    wrongSecret: 'another-key',
    past: 24 * 60 * MINUTE,
    future: 10 * MINUTE,
    isBodySigned: false,
  },
]

for (const scheme of SCHEMES) {
  const { name, verify, call, secret, wrongSecret, past, future } = scheme
  describe(name, () => {
    test('is proved by the right secret, alone or among several, and by no other', () => {
      assert.equal(judge(verify, call, [secret]), 'proved')
      assert.equal(judge(verify, call, [wrongSecret, secret]), 'proved')
      assert.equal(judge(verify, call, [wrongSecret]), 'signature_wrong')
    })

    test('is believed within its tolerance and not a second beyond', () => {
      assert.equal(judge(verify, call, [secret], NOW + past), 'proved')
      assert.equal(judge(verify, call, [secret], NOW + past + 1_000), 'timestamp_outside_tolerance')
      assert.equal(judge(verify, call, [secret], NOW - future), 'proved')
      assert.equal(judge(verify, call, [secret], NOW - future - 1_000), 'timestamp_outside_tolerance')
    })

    test('any bit of the proof or of signed bytes that is altered is noticed', () => {
      fc.assert(
        fc.property(fc.nat(), fc.nat(7), (place, bit) => {
          const altered = alterOneBit(scheme, place, bit)
          if (altered !== undefined) assert.notEqual(judge(verify, altered, [secret]), 'proved')
        }),
        { numRuns: 500 },
      )
    })

    test('a proof that is missing or makes no sense is refused, whatever it is', () => {
      const { body } = call
      const missing = judge(verify, { headers: {}, body: Buffer.from('{}') }, [secret])
      assert.ok(['proof_missing', 'proof_malformed'].includes(missing), missing)
      fc.assert(
        fc.property(
          fc.uint8Array({ maxLength: 200 }),
          fc.dictionary(fc.constantFrom(...Object.keys(call.headers), 'x'), fc.string()),
          (bytes, headers) => {
            assert.notEqual(judge(verify, { headers, body: Buffer.from(bytes) }, [secret]), 'proved')
            assert.notEqual(
              judge(verify, { headers: { ...call.headers, ...headers, x: '' }, body: Buffer.from(bytes) }, [
                secret,
              ]),
              'proved',
            )
          },
        ),
      )
      assert.notEqual(body.length, 0)
    })
  })
}

/** A bit of a header or of the body; undefined where another spelling of the same proof may come of it. */
function alterOneBit({ call, isBodySigned }: Scheme, place: number, bit: number): Call | undefined {
  const names = Object.keys(call.headers)
  const parts = isBodySigned ? [...names, ''] : names
  const part = parts[place % Math.max(parts.length, 1)]
  if (part === undefined || part === '') {
    const body = Buffer.from(call.body)
    const span = isBodySigned ? body.length : body.indexOf('"event-data"')
    const at = place % span
    body[at] = (body[at] ?? 0) ^ (1 << bit)
    return isBodySigned || isSameJson(call.body, body) === false ? { ...call, body } : undefined
  }
  const value = Buffer.from(call.headers[part] ?? '', 'latin1')
  const at = place % value.length
  value[at] = (value[at] ?? 0) ^ (1 << bit)
  const text = value.toString('latin1')
  // The last characters of base64 may hold bits that mean nothing, and "v1," any other version.
  const isSpelling = Buffer.from(text, 'base64').equals(Buffer.from(call.headers[part] ?? '', 'base64'))
  return isSpelling ? undefined : { ...call, headers: { ...call.headers, [part]: text } }
}

/** False also when the altered one is no JSON any more. */
function isSameJson(left: Buffer, right: Buffer): boolean {
  try {
    return JSON.stringify(JSON.parse(left.toString())) === JSON.stringify(JSON.parse(right.toString()))
  } catch {
    return false
  }
}

describe('published vectors', () => {
  test('Svix and Standard Webhooks: the example of their documentation', () => {
    const headers = {
      'svix-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'svix-timestamp': '1614265330',
      'svix-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    }
    const body = Buffer.from('{"test": 2432232314}')
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
    assert.deepEqual(verifyStandardWebhook(deliveryOf({ headers, body }), [secret], 1_614_265_330_000), {
      kind: 'proved',
      eventKey: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    })
  })

  test('SendGrid: the example of its libraries, its last line break included', () => {
    const headers = {
      'X-Twilio-Email-Event-Webhook-Signature':
        'MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=',
      'X-Twilio-Email-Event-Webhook-Timestamp': '1600112502',
    }
    const event = {
      email: 'hello@world.com',
      event: 'dropped',
      reason: 'Bounced Address',
      sg_event_id: 'ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA',
      sg_message_id: 'LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0',
      'smtp-id': '<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>',
      timestamp: 1600112492,
    }
    const key = SCHEMES.find(({ name }) => name === 'SendGrid')?.wrongSecret ?? ''
    const call = { headers, body: Buffer.from(`${JSON.stringify([event])}\r\n`) }
    assert.equal(judge(verifySendGrid, call, [key], 1_600_112_502_000), 'proved')
    const bare = { headers, body: Buffer.from(JSON.stringify([event])) }
    assert.equal(judge(verifySendGrid, bare, [key], 1_600_112_502_000), 'signature_wrong')
  })
})

describe('Standard Webhooks', () => {
  test('any of several signatures will do; other versions are not looked at', () => {
    const call = standardCall(BODY, NOW)
    const good = call.headers['svix-signature'] ?? ''
    const withSignature = (value: string) =>
      judge(verifyStandardWebhook, { ...call, headers: { ...call.headers, 'svix-signature': value } }, [
        STANDARD_SECRET,
      ])
    assert.equal(withSignature(`v1,AAAA v1a,${good.slice(3)} ${good}`), 'proved')
    assert.equal(withSignature(`v1a,${good.slice(3)}`), 'signature_wrong')
    assert.equal(withSignature(good.slice(3)), 'signature_wrong')
    assert.equal(withSignature(`${'v1,AAAA '.repeat(50)}${good}`), 'signature_wrong')
  })

  test('a secret that is none puts a delivery off instead of refusing it', () => {
    for (const secret of ['whsec_', 'whsec_AAAA', 'not base64!', `whsec_${'ä'.repeat(30)}`]) {
      assert.equal(judge(verifyStandardWebhook, standardCall(BODY, NOW), [secret]), 'secret_unusable')
    }
  })
})

test('SendGrid: a key that is none, or of another kind, puts a delivery off', () => {
  for (const secret of ['x', SENDGRID_SECRET.slice(4), 'A'.repeat(120)]) {
    assert.equal(judge(verifySendGrid, sendGridCall('[]', NOW), [secret]), 'secret_unusable')
  }
})

describe('Mailgun', () => {
  test('is proved by the signature of a parent account too', () => {
    const call = mailgunCall({ event: 'delivered' }, NOW)
    const { signature, ...rest } = JSON.parse(call.body.toString()) as {
      signature: Record<string, string>
    }
    const parent = createHmac('sha256', 'parent-key')
      .update(`${signature.timestamp}${signature.token}`)
      .digest('hex')
    const body = Buffer.from(
      JSON.stringify({ ...rest, signature: { ...signature, 'parent-signature': parent } }),
    )
    assert.equal(judge(verifyMailgun, { headers: {}, body }, ['parent-key']), 'proved')
    assert.equal(judge(verifyMailgun, call, ['parent-key']), 'signature_wrong')
  })

  test('a token has one key, whatever body comes with it', () => {
    const keyOf = (event: unknown, token?: string) => {
      const verdict = verifyMailgun(
        deliveryOf(mailgunCall(event, NOW, token === undefined ? {} : { token })),
        [MAILGUN_SECRET],
        NOW,
      )
      return verdict.kind === 'proved' ? verdict.eventKey : undefined
    }
    assert.equal(keyOf({ event: 'delivered' }), keyOf({ event: 'failed' }))
    assert.notEqual(keyOf({ event: 'delivered' }), keyOf({ event: 'delivered' }, 'f'.repeat(50)))
  })
})

describe('Postmark', () => {
  test('takes the credentials of its address, one of several, and no others', () => {
    const call = postmarkCall({ RecordType: 'Delivery' })
    assert.equal(judge(verifyPostmark, call, [POSTMARK_SECRET]), 'proved')
    assert.equal(judge(verifyPostmark, call, ['old:password', POSTMARK_SECRET]), 'proved')
    for (const wrong of ['postmark:a-long-passwore', 'postmark:', ':a-long-password', '', 'x'.repeat(900)]) {
      assert.notEqual(judge(verifyPostmark, postmarkCall({}, wrong), [POSTMARK_SECRET]), 'proved')
    }
    assert.equal(judge(verifyPostmark, { ...call, headers: {} }, [POSTMARK_SECRET]), 'proof_missing')
    const bearer = { Authorization: 'Bearer abc' }
    assert.equal(judge(verifyPostmark, { ...call, headers: bearer }, [POSTMARK_SECRET]), 'proof_malformed')
    assert.equal(judge(verifyPostmark, call, ['no-colon']), 'secret_unusable')
  })

  test('a repeat has the same key, and another event another one', () => {
    const keyOf = (event: unknown) => {
      const verdict = verifyPostmark(deliveryOf(postmarkCall(event)), [POSTMARK_SECRET])
      return verdict.kind === 'proved' ? verdict.eventKey : undefined
    }
    const event = {
      RecordType: 'Open',
      MessageID: 'a',
      ReceivedAt: '2027-01-15T12:00:00Z',
      Recipient: 'a@b.c',
    }
    assert.equal(keyOf(event), keyOf({ ...event, Tag: 'told later' }))
    assert.notEqual(keyOf(event), keyOf({ ...event, ReceivedAt: '2027-01-15T12:00:01Z' }))
    assert.notEqual(keyOf(event), keyOf({ ...event, RecordType: 'Click' }))
    assert.notEqual(keyOf({ odd: 1 }), keyOf({ odd: 2 }))
  })
})
