import assert from 'node:assert/strict'
import fc from 'fast-check'
import { ApiError } from '../../src/errors.ts'
import { PARSERS } from '../../src/feedback/parse/parsers.ts'
import { verifyMailgun } from '../../src/feedback/verify/mailgun.ts'
import { verifyPostmark } from '../../src/feedback/verify/postmark.ts'
import { verifySendGrid } from '../../src/feedback/verify/sendgrid.ts'
import { verifySns } from '../../src/feedback/verify/sns.ts'
import { SnsCertificates } from '../../src/feedback/verify/sns-certificates.ts'
import { verifyStandardWebhook } from '../../src/feedback/verify/standard-webhooks.ts'
import { readRows } from '../../src/http/suppression-csv.ts'
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
} from '../feedback/proofs.ts'
import { SIGNER_CERTIFICATE, SNS_NOW, snsMessage, TOPIC } from '../feedback/sns-signer.ts'
import { HOSTILE_STRINGS } from '../support/hostile-strings.ts'
import { assertStorable } from './mail-targets.ts'
import { fuzzTarget, mutated } from './target.ts'

const ID = '0197a2b4-7c1e-7d3a-9f00-1234567890ab'
const AT = '2027-01-15T11:59:58.000Z'

/** A good body of each kind, in the provider's own words. */
const BODIES: Readonly<Record<keyof typeof PARSERS, string>> = {
  ses: JSON.stringify({
    Type: 'Notification',
    Message: JSON.stringify({
      eventType: 'Bounce',
      mail: { messageId: 'x', destination: ['a@b.c'], headers: [{ name: 'X-Sluice-Id', value: ID }] },
      bounce: { bounceType: 'Permanent', timestamp: AT, bouncedRecipients: [{ emailAddress: 'a@b.c' }] },
    }),
  }),
  sendgrid: JSON.stringify([
    {
      event: 'bounce',
      email: 'a@b.c',
      timestamp: 1_800_000_000,
      sg_event_id: 'e',
      status: '5.1.1',
      sluice_id: ID,
    },
  ]),
  mailgun: JSON.stringify({
    'event-data': {
      event: 'failed',
      severity: 'permanent',
      id: 'm',
      timestamp: 1_800_000_000.5,
      recipient: 'a@b.c',
      'delivery-status': { 'enhanced-code': '5.1.1', message: 'no such user' },
      'user-variables': { sluice_id: ID },
    },
  }),
  postmark: JSON.stringify({
    RecordType: 'Bounce',
    Type: 'HardBounce',
    MessageID: 'p',
    Email: 'a@b.c',
    BouncedAt: AT,
    Metadata: { sluice_id: ID },
  }),
  resend: JSON.stringify({
    type: 'email.bounced',
    created_at: AT,
    data: {
      tags: { sluice_id: ID },
      bounce: { type: 'Permanent', message: '5.1.1', diagnosticCode: ['550 5.1.1'] },
    },
  }),
  generic: JSON.stringify({
    events: [
      {
        type: 'bounced',
        key: 'k',
        at: AT,
        sluice_id: ID,
        recipient: 'a@b.c',
        bounce: { kind: 'hard' },
        detail: { a: 1 },
      },
    ],
  }),
}

export const webhookBodies = fuzzTarget('webhook-bodies', 'bodies of provider webhooks, altered anywhere', {
  cases: fc
    .constantFrom(...(Object.keys(BODIES) as (keyof typeof BODIES)[]))
    .chain((kind) => mutated([BODIES[kind]]).map((body) => ({ kind, body }))),
  check: ({ kind, body }) => {
    const { events } = PARSERS[kind]({
      endpoint: 'e',
      eventKey: 'd',
      receivedAt: new Date(AT),
      provider: 'main',
      body: Buffer.from(body),
    })
    assertStorable(events)
  },
})

const certificates = new SnsCertificates(async () => ({
  kind: 'answered',
  status: 200,
  body: SIGNER_CERTIFICATE,
}))
const BODY = '{"type":"email.bounced","data":{"to":["ann@example.net"]}}'

type Proof = { readonly call: Call; isProved(call: Call): Promise<boolean> | boolean }

const PROOFS: Readonly<Record<string, Proof>> = {
  resend: {
    call: standardCall(BODY, SNS_NOW),
    isProved: (call) => verifyStandardWebhook(deliveryOf(call), [STANDARD_SECRET], SNS_NOW).kind === 'proved',
  },
  sendgrid: {
    call: sendGridCall(`[${BODY}]`, SNS_NOW),
    isProved: (call) => verifySendGrid(deliveryOf(call), [SENDGRID_SECRET], SNS_NOW).kind === 'proved',
  },
  mailgun: {
    call: mailgunCall({}, SNS_NOW),
    isProved: (call) => verifyMailgun(deliveryOf(call), [MAILGUN_SECRET], SNS_NOW).kind === 'proved',
  },
  postmark: {
    call: postmarkCall({ RecordType: 'Open' }),
    isProved: (call) => verifyPostmark(deliveryOf(call), [POSTMARK_SECRET]).kind === 'proved',
  },
  ses: {
    call: { headers: {}, body: Buffer.from(JSON.stringify(snsMessage())) },
    isProved: async (call) =>
      (await verifySns({ certificates }, deliveryOf(call), [TOPIC], SNS_NOW)).kind !== 'refused',
  },
}

/** What is signed of a call, as one text: equal texts are the same claim, however they are spelt. */
function claimOf(name: string, { headers, body }: Call): string {
  if (name === 'postmark')
    return Buffer.from(headers.Authorization?.slice(6) ?? '', 'base64').toString('latin1')
  const read = (): unknown => {
    try {
      return JSON.parse(body.toString())
    } catch {
      // No JSON says nothing.
      return undefined
    }
  }
  if (name === 'mailgun') {
    // Whatever else stands beside them is not signed, and not read.
    const { timestamp, token, signature } =
      (read() as { signature?: Record<string, unknown> } | undefined)?.signature ?? {}
    return JSON.stringify([timestamp, token, signature])
  }
  if (name === 'ses') {
    // All that is believed of an envelope; its other fields are not signed, and not read.
    const { Type, MessageId, TopicArn, Message, Subject, Timestamp } = (read() ?? {}) as Record<
      string,
      unknown
    >
    return JSON.stringify([Type, MessageId, TopicArn, Message, Subject, Timestamp])
  }
  const proofs = Object.entries(headers).map(([header, value]) =>
    header.toLowerCase().endsWith('-signature') ? '' : value,
  )
  return JSON.stringify([proofs, body.toString('latin1')])
}

export const webhookProofs = fuzzTarget('webhook-proofs', 'signed webhooks with anything in them altered', {
  cases: fc.constantFrom(...Object.entries(PROOFS)).chain(([name, { call }]) => {
    const { headers, body } = call
    const parts = [...Object.keys(headers), ''].filter((part) => name !== 'postmark' || part !== '')
    return fc.constantFrom(...parts).chain((part) =>
      mutated([part === '' ? body.toString('latin1') : (headers[part] ?? '')]).map((text) => ({
        name,
        call:
          part === ''
            ? { headers, body: Buffer.from(text, 'latin1') }
            : { headers: { ...headers, [part]: text }, body },
      })),
    )
  }),
  check: async ({ name, call }) => {
    const proof = PROOFS[name] as Proof
    if (!(await proof.isProved(call))) return
    assert.equal(claimOf(name, call), claimOf(name, proof.call), 'another claim was proved')
  },
})

const CSVS = [
  'email,reason\nann@example.net,"said ""stop"", twice"\nbob@example.net,\n',
  '\ufeffEmailAddress;Reason\r\nx@example.net;y\r\n',
  'ann@example.net\nbob@example.net\n',
  ...HOSTILE_STRINGS.slice(0, 100).map((text) => `address,scope,reason\n"${text}",*,${text}\n`),
]

export const csvFiles = fuzzTarget('csv', 'files of addresses to import', {
  cases: mutated(CSVS),
  check: async (text) => {
    const request = new Request('http://a.test', { method: 'POST', body: Buffer.from(text) })
    let rows = 0
    try {
      for await (const { line, address, reason } of readRows(request, () => undefined)) {
        rows += 1
        assert.ok(line > 0 && typeof address === 'string' && typeof reason === 'string')
      }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error
    }
    assert.ok(rows <= text.length)
  },
})
