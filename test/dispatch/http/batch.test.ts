import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Outgoing, SendOutcome, Transport } from '../../../src/dispatch/transport.ts'
import { jsonOf, type Received } from '../../support/provider-rules.ts'
import { startStandIn } from '../../support/provider-stand-ins.ts'
import { openFor, outgoing, toOne, verdict } from './outgoing-mail.ts'

const many = (count: number) => Array.from({ length: count }, (_, index) => toOne(index))
const pathsOf = (requests: readonly Received[]) => requests.map(({ path }) => path)

async function sendAll(transport: Transport, list: readonly Outgoing[]): Promise<readonly SendOutcome[]> {
  assert.ok(transport.batch)
  const outcomes = await transport.batch.send(list)
  assert.equal(outcomes.length, list.length)
  return outcomes
}

function tally(outcomes: readonly SendOutcome[]): Record<string, number> {
  const groups = Map.groupBy(outcomes, verdict)
  return Object.fromEntries([...groups].map(([name, list]) => [name, list.length]))
}

for (const [provider, size] of [
  ['postmark', 500],
  ['resend', 100],
] as const) {
  test(`${provider}: as many messages as a batch may have go in one request, each with its own id`, async (t) => {
    const standIn = await startStandIn(t, provider)
    const transport = openFor(t, provider, standIn.url)
    assert.equal(transport.batch?.size, size)
    const outcomes = await sendAll(transport, many(size))
    assert.deepEqual(tally(outcomes), { accepted: size })
    assert.equal(standIn.requests.length, 1)
    const ids = outcomes.map((outcome) => (outcome.kind === 'accepted' ? outcome.providerMessageId : ''))
    assert.equal(new Set(ids).size, size)
  })

  test(`${provider}: more than that go in several, in order`, async (t) => {
    const standIn = await startStandIn(t, provider)
    const list = many(size + 1)
    assert.deepEqual(tally(await sendAll(openFor(t, provider, standIn.url), list)), { accepted: size + 1 })
    assert.equal(standIn.requests.length, 2)
  })

  test(`${provider}: no request is larger than the provider takes`, async (t) => {
    const standIn = await startStandIn(t, provider)
    const text = 'x'.repeat(70).concat('\n').repeat(110_000)
    const list = many(8).map((each) => ({ ...each, mail: { ...each.mail, text } }))
    assert.deepEqual(tally(await sendAll(openFor(t, provider, standIn.url), list)), { accepted: 8 })
    assert.ok(standIn.requests.length > 1)
    const limit = provider === 'postmark' ? 50_000_000 : 40_000_000
    assert.ok(standIn.requests.every(({ body }) => body.length <= limit))
  })

  test(`${provider}: bad messages do not condemn their neighbours, and each outcome is at its place`, async (t) => {
    const standIn = await startStandIn(t, provider)
    const list = many(10)
    list[2] = { ...toOne(2), mail: { ...toOne(2).mail, subject: 'a\nb' } }
    list[5] = provider === 'postmark' ? toOne(5, 'inactive5@mail.test') : withoutSubject(5)
    list[7] = outgoing({}, { to: [] })
    const outcomes = (await sendAll(openFor(t, provider, standIn.url), list)).map(verdict)
    assert.equal(outcomes[2], 'refused malformed_message')
    assert.equal(
      outcomes[5],
      provider === 'postmark' ? 'refused recipient_suppressed' : 'refused request_refused',
    )
    assert.equal(outcomes[7], 'refused invalid_envelope')
    assert.equal(outcomes.filter((each) => each === 'accepted').length, 7)
  })

  test(`${provider}: a fault of the account, a pause and a lost answer are the same for all`, async (t) => {
    for (const [answer, expected] of [
      [{ status: 401, body: '' }, 'unreachable auth_failed'],
      [{ status: 429, headers: { 'retry-after': '2' }, body: '' }, 'unreachable throttled'],
      [{ status: 503, body: '' }, 'unreachable service_unavailable'],
      [{ status: 200, body: '{' }, 'unknown protocol_error'],
      [{ status: 200, body: [] }, 'unknown protocol_error'],
      ['reset', 'unknown connection_lost'],
    ] as const) {
      const standIn = await startStandIn(t, provider, { onRequest: () => answer })
      const outcomes = await sendAll(openFor(t, provider, standIn.url), many(5))
      assert.deepEqual(tally(outcomes), { [expected]: 5 })
      assert.equal(standIn.requests.length, 1)
    }
  })

  test(`${provider}: recipients that must not see each other are not put into a batch`, async (t) => {
    const standIn = await startStandIn(t, provider)
    const hidden = outgoing({}, { to: ['hidden@mail.test', 'other@mail.test'] })
    const outcomes = await sendAll(openFor(t, provider, standIn.url), [toOne(1), hidden, toOne(2)])
    assert.deepEqual(tally(outcomes), { accepted: 3 })
    assert.equal(pathsOf(standIn.requests).filter((path) => path.endsWith('/batch')).length, 1)
  })
}

function withoutSubject(number: number): Outgoing {
  const { mail, envelope } = toOne(number)
  return { mail: { ...mail, subject: '' }, envelope }
}

test('resend: a batch refused as a whole is sent one by one, and the bad message stands alone', async (t) => {
  const strict = { status: 422, body: { name: 'validation_error', message: 'Invalid.' } }
  const standIn = await startStandIn(t, 'resend', {
    onRequest: ({ path }) => (path.endsWith('/batch') ? strict : undefined),
  })
  const list = [...many(3), withoutSubject(3), toOne(4)]
  const outcomes = await sendAll(openFor(t, 'resend', standIn.url), list)
  assert.deepEqual(tally(outcomes), { accepted: 4, 'refused request_refused': 1 })
  assert.equal(verdict(outcomes[3]), 'refused request_refused')
})

test('resend: a place marked as bad for a fault of the account is no dead letter', async (t) => {
  const standIn = await startStandIn(t, 'resend')
  const list = many(3).map((each, index) =>
    index === 1 ? { ...each, mail: { ...each.mail, from: { address: 'a@other.test' } } } : each,
  )
  const outcomes = await sendAll(openFor(t, 'resend', standIn.url), list)
  assert.deepEqual(outcomes.map(verdict), ['accepted', 'unreachable sender_unverified', 'accepted'])
  const [, alone] = standIn.requests
  assert.equal(alone?.headers['idempotency-key'], list[1]?.mail.id)
})

test('resend: once the provider gives no answer to one of them, the others wait unsent', async (t) => {
  const standIn = await startStandIn(t, 'resend', {
    onRequest: ({ path }, count) => {
      if (path.endsWith('/batch')) return { status: 422, body: { name: 'validation_error', message: 'No' } }
      return count === 3 ? 'reset' : undefined
    },
  })
  const outcomes = await sendAll(openFor(t, 'resend', standIn.url), many(4))
  assert.deepEqual(outcomes.map(verdict), [
    'accepted',
    'unknown connection_lost',
    'unreachable service_unavailable',
    'unreachable service_unavailable',
  ])
  assert.equal(standIn.requests.length, 3)
})

test('resend: the same batch has the same idempotency key, another batch another', async (t) => {
  const standIn = await startStandIn(t, 'resend')
  const transport = openFor(t, 'resend', standIn.url)
  for (const list of [many(3), many(3), many(4)]) await sendAll(transport, list)
  const [first, second, third] = standIn.requests.map(({ headers }) => headers['idempotency-key'])
  assert.equal(first, second)
  assert.notEqual(first, third)
})

test('postmark: a batch refused as a whole is sent one by one', async (t) => {
  const refusal = { status: 422, body: { ErrorCode: 300, Message: 'One of them is bad.' } }
  const standIn = await startStandIn(t, 'postmark', {
    onRequest: ({ path }) => (path === 'POST /email/batch' ? refusal : undefined),
  })
  const outcomes = await sendAll(openFor(t, 'postmark', standIn.url), many(3))
  assert.deepEqual(tally(outcomes), { accepted: 3 })
  assert.equal(standIn.requests.length, 4)
})

test('postmark: the stream of the options goes with every message', async (t) => {
  const standIn = await startStandIn(t, 'postmark')
  const transport = openFor(t, 'postmark', standIn.url, { options: { message_stream: 'nowhere' } })
  const outcomes = await sendAll(transport, many(2))
  assert.deepEqual(tally(outcomes), { 'unreachable provider_misconfigured': 2 })
  assert.ok(standIn.requests[0] && jsonOf(standIn.requests[0])[1].MessageStream === 'nowhere')
})

test('a batch that is aborted ends at once', async (t) => {
  const standIn = await startStandIn(t, 'postmark', { onRequest: () => 'hang' })
  const transport = openFor(t, 'postmark', standIn.url)
  const abort = new AbortController()
  const sending = transport.batch?.send(many(3), abort.signal)
  await standIn.waitForRequests(1)
  abort.abort()
  assert.deepEqual(
    (await sending)?.map(verdict),
    Array.from({ length: 3 }, () => 'unknown aborted'),
  )
})
