import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Stream } from '../../src/catalog.ts'
import type { Claim } from '../../src/dispatch/claims.ts'
import { Sender, type SenderDeps } from '../../src/dispatch/sender.ts'
import type { Outcome } from '../../src/dispatch/settler.ts'
import type { SendOutcome, Transport } from '../../src/dispatch/transport.ts'
import { createLog } from '../../src/log.ts'
import { Meter } from '../../src/meter.ts'
import { eventually } from '../support/eventually.ts'

const STREAM = {
  ...{ name: 'transactional', slots: 2, bounceDomain: 'bounces.example', openedAt: null },
  ...{ maxAgeMs: 3_600_000, attempts: 3, onUnknown: 'retry' },
} as Stream

function claimOf(id: string): Claim {
  const mailbox = [{ address: 'ann@example.net' }]
  const message = {
    ...{ id, attempt: 1, claimed_at: '2026-01-01 00:00:00+00', accepted_at: new Date(), due_at: new Date() },
    ...{ queued_at: null, priority: 5, sealed: null, sealed_parts: null, left_out: null, settled: null },
    list_unsubscribe: null,
    message: {
      ...{ from: { address: 'shop@example.com' }, to: mailbox, cc: [], bcc: [], reply_to: [] },
      ...{ subject: 'Hello', text: 'Hello', headers: {}, tags: [] },
    },
  }
  return {
    ...{ queue: 'dispatch.default.transactional', job: { id, retryCount: 0 }, worker: 1, closedMs: 0 },
    message: message as unknown as Claim['message'],
  }
}

test('a fault that nobody foresaw is the outcome of its message, and the sender goes on', async () => {
  const outcomes: Outcome[] = []
  const deps = {
    log: createLog('silent'),
    clock: { now: () => Date.now() },
    catalog: { current: { providers: new Map() } },
    settler: { add: (outcome: Outcome) => outcomes.push(outcome) },
    bounceAddresses: {
      of: () => {
        throw new Error('a bug')
      },
    },
  } as unknown as SenderDeps
  const sender = new Sender(deps, 'default', STREAM.name, () => undefined)
  sender.launch(STREAM, {} as Transport, ['1', '2', '3'].map(claimOf))
  await sender.finish()
  assert.equal(sender.underWay, 0)
  assert.deepEqual(
    outcomes.map(({ settlement: { id, status, code } }) => [id, status, code]),
    ['1', '2', '3'].map((id) => [id, 'dead', 'internal_error']),
  )
})

describe('what was claimed ahead of the slots', () => {
  const SENT: SendOutcome = { kind: 'accepted', reply: '250 ok', refused: [] }
  const FAULT: SendOutcome = { kind: 'unreachable', code: 'connect_failed', reason: 'nobody there' }

  /** A sender of five claims over a transport whose requests end when the test says so. */
  function launchFive() {
    const outcomes: Outcome[] = []
    const requests: PromiseWithResolvers<SendOutcome>[] = []
    const transport = {
      send: () => {
        const request = Promise.withResolvers<SendOutcome>()
        requests.push(request)
        return request.promise
      },
    } as unknown as Transport
    const deps = {
      log: createLog('silent'),
      clock: { now: () => Date.now() },
      meter: new Meter(),
      catalog: { current: { providers: new Map() } },
      settler: { add: (outcome: Outcome) => outcomes.push(outcome) },
      health: { note: async () => undefined },
      bounceAddresses: { of: () => 'bounce@bounces.example' },
      worker: () => 1,
      holds: () => true,
      random: () => 0,
    } as unknown as SenderDeps
    const sender = new Sender(deps, 'default', STREAM.name, () => undefined)
    sender.launch(STREAM, transport, ['1', '2', '3', '4', '5'].map(claimOf))
    const settled = () => outcomes.map(({ settlement: { id, status } }) => `${id} ${status}`)
    const end = async (index: number, outcome: SendOutcome) => {
      await eventually(`request ${index} has begun`, async () => requests.length > index)
      requests[index]?.resolve(outcome)
    }
    return { sender, requests, outcomes, settled, end }
  }

  test('takes each slot that becomes free, in its order', async () => {
    const { sender, requests, settled, end } = launchFive()
    assert.deepEqual([sender.underWay, sender.claimed], [2, 5])
    for (const index of [1, 0, 2, 3, 4]) {
      await end(index, SENT)
      await eventually('it is settled', async () => settled().length === [1, 0, 2, 3, 4].indexOf(index) + 1)
      assert.ok(sender.underWay <= 2)
    }
    await sender.finish()
    assert.equal(requests.length, 5)
    assert.deepEqual(settled(), ['2 sent', '1 sent', '3 sent', '4 sent', '5 sent'])
  })

  test('goes back without an attempt when the provider fails', async () => {
    const { sender, requests, outcomes, settled, end } = launchFive()
    await end(0, FAULT)
    await eventually('the others are given back', async () => settled().length === 4)
    assert.deepEqual([sender.claimed, requests.length], [1, 2])
    await end(1, SENT)
    await sender.finish()
    assert.deepEqual(settled().toSorted(), ['1 deferred', '2 sent', '3 deferred', '4 deferred', '5 deferred'])
    const back = outcomes.filter(({ settlement }) => settlement.status === 'deferred')
    assert.ok(back.every(({ settlement }) => !settlement.countsAsAttempt))
  })

  test('goes back when no slot becomes free, and nothing is ahead until requests are known to be quick again', async () => {
    const { sender, settled, end } = launchFive()
    await eventually('they are given back', async () => settled().length === 3)
    assert.deepEqual(settled(), ['3 deferred', '4 deferred', '5 deferred'])
    assert.deepEqual([sender.underWay, sender.claimed, sender.requestMs], [2, 2, Number.POSITIVE_INFINITY])
    for (const index of [0, 1]) await end(index, SENT)
    await sender.finish()
    assert.ok(sender.requestMs >= 900, `${sender.requestMs} ms: that one took long`)
  })
})
