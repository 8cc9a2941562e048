import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { composeMail } from '../../../src/dispatch/compose.ts'
import {
  type Answer,
  awsSignature,
  formOf,
  jsonOf,
  STAND_IN_AWS,
  type StandInProvider,
} from '../../support/provider-rules.ts'
import { startStandIn } from '../../support/provider-stand-ins.ts'
import { MAIL, openFor, outgoing, PROVIDERS, toOne, verdict } from './outgoing-mail.ts'

for (const provider of PROVIDERS) {
  describe(provider, () => {
    test('a mail to shown and hidden recipients is accepted, with the id the provider gave it', async (t) => {
      const standIn = await startStandIn(t, provider)
      const outcome = await openFor(t, provider, standIn.url).send(outgoing())
      assert.equal(outcome.kind, 'accepted', JSON.stringify(outcome))
      assert.ok(outcome.kind === 'accepted' && outcome.providerMessageId)
      assert.deepEqual(outcome.refused, [])
    })

    test('the message’s id and Message-ID go with the mail', async (t) => {
      const standIn = await startStandIn(t, provider)
      await openFor(t, provider, standIn.url).send(outgoing())
      const [received] = standIn.requests
      assert.ok(received)
      const sent =
        provider === 'ses'
          ? Buffer.from(jsonOf(received).Content.Raw.Data, 'base64').toString()
          : received.body.toString()
      assert.ok(sent.includes(MAIL.messageId) && sent.includes('X-Sluice-Id'))
    })

    test('the headers of a click to unsubscribe go with the mail', async (t) => {
      const standIn = await startStandIn(t, provider)
      const headers = {
        'List-Unsubscribe':
          '<https://mail.example.com/u/token>, <mailto:leave@example.com?subject=unsubscribe>',
        'List-Unsubscribe-Post': 'List-Unsubscribe=One-Click',
      }
      await openFor(t, provider, standIn.url).send(outgoing({ headers }))
      const [received] = standIn.requests
      assert.ok(received)
      const sent =
        provider === 'ses'
          ? Buffer.from(jsonOf(received).Content.Raw.Data, 'base64').toString()
          : received.body.toString()
      const unfolded = sent.replaceAll(/\r\n /g, ' ')
      for (const part of Object.entries(headers).flat()) assert.ok(unfolded.includes(part), part)
    })

    test('a wrong key is the provider’s affair, not the message’s', async (t) => {
      const standIn = await startStandIn(t, provider)
      const credentials = provider === 'ses' ? `${STAND_IN_AWS.id}:wrong` : 'wrong'
      const outcome = await openFor(t, provider, standIn.url, { credentials }).send(outgoing())
      assert.equal(verdict(outcome), 'unreachable auth_failed')
      assert.ok(outcome.kind === 'unreachable' && (outcome.httpStatus === 401 || outcome.httpStatus === 403))
    })

    test('being asked to slow down costs the message nothing, and says for how long', async (t) => {
      const standIn = await startStandIn(t, provider, {
        onRequest: () => ({ status: 429, headers: { 'retry-after': '3' }, body: '' }),
      })
      const outcome = await openFor(t, provider, standIn.url).send(outgoing())
      assert.equal(verdict(outcome), 'unreachable throttled')
      assert.equal(outcome.rate?.pauseMs, 3_000)
    })

    test('a mail that cannot be composed or addressed is refused without being sent', async (t) => {
      const standIn = await startStandIn(t, provider)
      const transport = openFor(t, provider, standIn.url)
      const malformed = await transport.send(outgoing({ subject: 'a\r\nBcc: x@evil.test' }))
      assert.equal(verdict(malformed), 'refused malformed_message')
      assert.match(malformed.kind === 'refused' ? (malformed.reply ?? '') : '', /line break/)
      for (const to of [['a@b.test>,<x@evil.test'], ['a@b.test\n'], []]) {
        assert.equal(verdict(await transport.send(outgoing({}, { to }))), 'refused invalid_envelope')
      }
      const huge = await transport.send(outgoing({ text: 'x'.repeat(70).concat('\n').repeat(600_000) }))
      assert.equal(verdict(huge), 'refused message_too_large')
      assert.equal(standIn.requests.length, 0)
    })

    test('exactly the recipients of the envelope get the mail, and hidden ones never see each other', async (t) => {
      const standIn = await startStandIn(t, provider)
      const transport = openFor(t, provider, standIn.url)
      const cases: readonly (readonly string[])[] = [
        ['Ann@mail.test', 'cc@mail.test', 'hidden@mail.test'],
        ['cc@mail.test', 'hidden@mail.test'],
        ['hidden@mail.test'],
        ['hidden@mail.test', 'other@mail.test'],
      ]
      for (const to of cases) {
        const before = standIn.requests.length
        assert.equal(verdict(await transport.send(outgoing({}, { to }))), 'accepted')
        const seen = await Promise.all(standIn.requests.slice(before).map(recipientsIn(provider)))
        assert.deepEqual(seen.flatMap(({ all }) => all).toSorted(), [...to].toSorted())
        for (const { shown } of seen) {
          assert.ok(shown.filter((address) => /^(?:hidden|other)/.test(address)).length <= 1, String(shown))
        }
      }
    })

    test('a mail with neither text nor HTML is sent', async (t) => {
      const standIn = await startStandIn(t, provider)
      const { html: _html, text: _text, ...mail } = MAIL
      const outcome = await openFor(t, provider, standIn.url).send({ ...outgoing(), mail })
      assert.equal(verdict(outcome), 'accepted')
    })
  })
}

/** `shown`: those whose address stands in a header that the others see. */
function recipientsIn(provider: StandInProvider) {
  return async (received: Parameters<typeof jsonOf>[0]): Promise<{ all: string[]; shown: string[] }> => {
    if (provider === 'mailgun') {
      return { all: (await formOf(received)).getAll('to').map(String), shown: [] }
    }
    const json = jsonOf(received)
    if (provider === 'ses') {
      const { ToAddresses, CcAddresses, BccAddresses } = json.Destination
      return { all: [...ToAddresses, ...CcAddresses, ...BccAddresses], shown: [] }
    }
    const addresses = (part: unknown) => JSON.stringify(part ?? '').match(/[\w.]+@[\w.]+/g) ?? []
    const source = provider === 'sendgrid' ? json.personalizations : [json]
    assert.equal(source.length, 1)
    const [{ to = source[0].To, cc = source[0].Cc, bcc = source[0].Bcc }] = source
    return {
      all: [...addresses(to), ...addresses(cc), ...addresses(bcc)],
      shown: [...addresses(to), ...addresses(cc)],
    }
  }
}

test('SES and Mailgun get the message byte for byte', async (t) => {
  const raw = composeMail(MAIL).toBuffer()
  const ses = await startStandIn(t, 'ses')
  await openFor(t, 'ses', ses.url).send(outgoing())
  assert.ok(ses.requests[0] && Buffer.from(jsonOf(ses.requests[0]).Content.Raw.Data, 'base64').equals(raw))
  const mailgun = await startStandIn(t, 'mailgun')
  const outcome = await openFor(t, 'mailgun', mailgun.url).send(outgoing())
  const file = mailgun.requests[0] && (await formOf(mailgun.requests[0])).get('message')
  assert.ok(file && typeof file !== 'string')
  assert.ok(Buffer.from(await file.arrayBuffer()).equals(raw))
  assert.equal(outcome.kind === 'accepted' && outcome.providerMessageId, MAIL.messageId.slice(1, -1))
})

test('a name with commas and quotes stays one name', async (t) => {
  for (const provider of ['postmark', 'resend'] as const) {
    const standIn = await startStandIn(t, provider)
    await openFor(t, provider, standIn.url).send(outgoing())
    const json = standIn.requests[0] && jsonOf(standIn.requests[0])
    assert.equal(json.From ?? json.from, '"Shop, \\"The\\"" <shop@shop.test>')
  }
})

test('the stand-in computes signatures as AWS publishes them', () => {
  // "get-vanilla" of the Signature Version 4 test suite.
  const signature = awsSignature({
    method: 'GET',
    path: '/',
    headers: { host: 'example.amazonaws.com', 'x-amz-date': '20150830T123600Z' },
    signedHeaders: ['host', 'x-amz-date'],
    body: Buffer.alloc(0),
    secret: STAND_IN_AWS.secret,
    scope: '20150830/us-east-1/service/aws4_request',
    date: '20150830T123600Z',
  })
  assert.equal(signature, '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31')
})

test('SES takes the signature of a session, behind a base URL with a path, and a configuration set', async (t) => {
  const standIn = await startStandIn(t, 'ses')
  const outcome = await openFor(t, 'ses', standIn.url, {
    credentials: `${STAND_IN_AWS.id}:${STAND_IN_AWS.secret}:token/with+signs==`,
    options: { region: 'eu-west-1', configuration_set: 'orders' },
  }).send(outgoing())
  assert.equal(verdict(outcome), 'accepted')
  assert.equal(standIn.requests[0]?.headers['x-amz-security-token'], 'token/with+signs==')
  assert.equal(standIn.requests[0] && jsonOf(standIn.requests[0]).ConfigurationSetName, 'orders')
  const behind = await startStandIn(t, 'ses', {
    onRequest: () => ({ status: 200, body: { MessageId: '1' } }),
  })
  assert.equal(verdict(await openFor(t, 'ses', `${behind.url}/aws/`).send(outgoing())), 'accepted')
  assert.equal(behind.requests[0]?.path, 'POST /aws/v2/email/outbound-emails')
})

test('Resend gets the message’s id as idempotency key, the same on every attempt', async (t) => {
  const standIn = await startStandIn(t, 'resend')
  const transport = openFor(t, 'resend', standIn.url)
  await transport.send(outgoing())
  await transport.send(outgoing())
  assert.deepEqual(
    standIn.requests.map(({ headers }) => headers['idempotency-key']),
    [MAIL.id, MAIL.id],
  )
})

test('Postmark delivers to the others when some recipients are inactive, and those are recorded', async (t) => {
  const standIn = await startStandIn(t, 'postmark')
  const to = ['Ann@mail.test', 'Inactive1@mail.test', 'inactive2@mail.test']
  const outcome = await openFor(t, 'postmark', standIn.url).send(outgoing({}, { to }))
  assert.equal(outcome.kind, 'accepted')
  assert.deepEqual(
    outcome.kind === 'accepted' &&
      outcome.refused.map(({ recipient, permanent, code }) => [recipient, permanent, code]),
    [
      ['Inactive1@mail.test', true, 'recipient_suppressed'],
      ['inactive2@mail.test', true, 'recipient_suppressed'],
    ],
  )
})

test('of a mail sent piece by piece, the recipients of a refused piece are recorded', async (t) => {
  const standIn = await startStandIn(t, 'postmark')
  const outcome = await openFor(t, 'postmark', standIn.url).send(
    outgoing({}, { to: ['inactive@mail.test', 'hidden@mail.test'] }),
  )
  assert.equal(outcome.kind, 'accepted')
  assert.deepEqual(
    outcome.kind === 'accepted' && outcome.refused.map(({ recipient, permanent }) => [recipient, permanent]),
    [['inactive@mail.test', true]],
  )
})

test('rate headers come back with the outcome', async (t) => {
  const resend = await startStandIn(t, 'resend')
  const outcome = await openFor(t, 'resend', resend.url).send(toOne(1))
  assert.deepEqual(outcome.rate, { remaining: 4, resetMs: 1_000 })
})

const ses = (status: number, name: string, message: string): Answer => ({
  status,
  headers: { 'x-amzn-errortype': `${name}:http://internal.amazon.test/` },
  body: { message },
})
const resend = (statusCode: number, name: string): Answer => ({
  status: statusCode,
  body: { statusCode, name, message: 'The reason.' },
})
const postmark = (ErrorCode: number, Message = 'The reason.'): Answer => ({
  status: 422,
  body: { ErrorCode, Message },
})
const mailgun = (status: number, message: string): Answer => ({ status, body: { message } })
const sendgrid = (status: number, field: string | null, message = 'The reason.'): Answer => ({
  status,
  body: { errors: [{ field, message }] },
})

const REFUSALS: readonly (readonly [StandInProvider, Answer, string])[] = [
  ['ses', ses(429, 'TooManyRequestsException', 'Maximum sending rate exceeded.'), 'unreachable throttled'],
  [
    'ses',
    ses(429, 'TooManyRequestsException', 'Daily message quota exceeded.'),
    'unreachable quota_exceeded',
  ],
  ['ses', ses(400, 'ThrottlingException', 'Rate exceeded'), 'unreachable throttled'],
  ['ses', ses(400, 'LimitExceededException', 'Too many'), 'unreachable throttled'],
  ['ses', ses(400, 'AccountSuspendedException', 'Suspended'), 'unreachable account_paused'],
  ['ses', ses(400, 'SendingPausedException', 'Paused'), 'unreachable account_paused'],
  ['ses', ses(400, 'MailFromDomainNotVerifiedException', 'No MX'), 'unreachable sender_unverified'],
  ['ses', ses(400, 'MessageRejected', 'Email address is not verified.'), 'unreachable sender_unverified'],
  ['ses', ses(400, 'MessageRejected', 'Email contains a virus.'), 'refused content_refused'],
  ['ses', ses(400, 'BadRequestException', 'Illegal'), 'refused request_refused'],
  ['ses', ses(404, 'NotFoundException', 'No such configuration set'), 'unreachable provider_misconfigured'],
  ['ses', ses(403, 'SignatureDoesNotMatch', 'No match'), 'unreachable auth_failed'],
  ['ses', { status: 400, body: { __type: 'x#SendingPausedException' } }, 'unreachable account_paused'],
  ['ses', ses(500, 'InternalFailure', 'Oops'), 'unreachable service_unavailable'],
  ['sendgrid', sendgrid(400, 'personalizations.0.to.0.email'), 'refused bad_recipient'],
  ['sendgrid', sendgrid(400, 'from.email'), 'refused sender_refused'],
  ['sendgrid', sendgrid(400, 'content'), 'refused request_refused'],
  ['sendgrid', sendgrid(400, null), 'refused request_refused'],
  ['sendgrid', sendgrid(403, 'from', 'No verified Sender Identity.'), 'unreachable sender_unverified'],
  ['sendgrid', sendgrid(401, null, 'Maximum credits exceeded'), 'unreachable quota_exceeded'],
  ['sendgrid', sendgrid(413, null), 'refused message_too_large'],
  ['sendgrid', sendgrid(451, null), 'unreachable provider_misconfigured'],
  ['sendgrid', { status: 200, body: '' }, 'unknown protocol_error'],
  ['mailgun', mailgun(400, "'to' parameter is not a valid address. please check"), 'refused bad_recipient'],
  ['mailgun', mailgun(400, 'Something else'), 'refused request_refused'],
  ['mailgun', mailgun(403, 'Domain x is not allowed to send: unverified'), 'unreachable sender_unverified'],
  ['mailgun', mailgun(403, 'Domain x is not allowed to send'), 'unreachable account_paused'],
  ['mailgun', mailgun(402, 'Request failed'), 'unreachable account_paused'],
  ['mailgun', mailgun(404, 'Domain not found: x'), 'unreachable provider_misconfigured'],
  ['mailgun', mailgun(420, 'limit exceeded'), 'unreachable throttled'],
  ['postmark', postmark(10), 'unreachable auth_failed'],
  ['postmark', postmark(100), 'unreachable service_unavailable'],
  ['postmark', postmark(300, "Invalid 'To' address: 'x'."), 'refused bad_recipient'],
  ['postmark', postmark(300, "Invalid 'From' address: 'x'."), 'refused sender_refused'],
  ['postmark', postmark(300), 'refused request_refused'],
  ['postmark', postmark(400), 'unreachable sender_unverified'],
  ['postmark', postmark(401), 'unreachable sender_unverified'],
  ['postmark', postmark(405), 'unreachable quota_exceeded'],
  ['postmark', postmark(406), 'refused recipient_suppressed'],
  ['postmark', postmark(411), 'refused content_refused'],
  ['postmark', postmark(412), 'unreachable account_paused'],
  ['postmark', postmark(413), 'unreachable account_paused'],
  ['postmark', postmark(429), 'unreachable throttled'],
  ['postmark', postmark(1235), 'unreachable provider_misconfigured'],
  ['postmark', { status: 413, body: 'Payload Too Large' }, 'refused message_too_large'],
  ['resend', resend(401, 'missing_api_key'), 'unreachable auth_failed'],
  ['resend', resend(403, 'suspended_api_key'), 'unreachable auth_failed'],
  ['resend', resend(403, 'validation_error'), 'unreachable sender_unverified'],
  ['resend', resend(400, 'validation_error'), 'refused request_refused'],
  ['resend', resend(422, 'invalid_parameter'), 'refused request_refused'],
  ['resend', resend(422, 'invalid_from_address'), 'refused sender_refused'],
  ['resend', resend(429, 'rate_limit_exceeded'), 'unreachable throttled'],
  ['resend', resend(429, 'daily_quota_exceeded'), 'unreachable quota_exceeded'],
  ['resend', resend(409, 'concurrent_idempotent_requests'), 'deferred request_in_progress'],
  ['resend', resend(409, 'invalid_idempotent_request'), 'unknown idempotency_conflict'],
  ['resend', resend(451, 'security_error'), 'refused content_refused'],
  ['resend', resend(404, 'not_found'), 'unreachable provider_misconfigured'],
  ['resend', resend(500, 'application_error'), 'unreachable service_unavailable'],
]

for (const [provider, answer, expected] of REFUSALS) {
  test(`${provider}: ${answer.status} ${JSON.stringify(answer.body)} is ${expected}`, async (t) => {
    const standIn = await startStandIn(t, provider, { onRequest: () => answer })
    assert.equal(verdict(await openFor(t, provider, standIn.url).send(toOne(1))), expected)
  })
}
