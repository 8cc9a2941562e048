import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Stream } from '../../src/catalog.ts'
import type { Claim } from '../../src/dispatch/claims.ts'
import { Sender, type SenderDeps } from '../../src/dispatch/sender.ts'
import type { Outcome } from '../../src/dispatch/settler.ts'
import type { Transport } from '../../src/dispatch/transport.ts'
import { createLog } from '../../src/log.ts'

const STREAM = { name: 'transactional', slots: 2, bounceDomain: 'bounces.example', openedAt: null } as Stream

function claimOf(id: string): Claim {
  const mailbox = [{ address: 'ann@example.net' }]
  const message = {
    ...{ id, attempt: 1, claimed_at: '2026-01-01 00:00:00+00', accepted_at: new Date(), due_at: new Date() },
    ...{ queued_at: null, priority: 5, sealed: null, sealed_parts: null, left_out: null, settled: null },
    message: { from: { address: 'shop@example.com' }, to: mailbox, cc: [], bcc: [], attachments: [] },
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
