import type { Meter } from '../meter.ts'
import type { Outcome } from './settler.ts'

/** Counts outcomes that were written: each by its end, and of those that were sent how long that took. */
export function measureOutcomes(meter: Meter, outcomes: readonly Outcome[]): void {
  for (const { queue, settlement, place, dueAt, endedAt } of outcomes) {
    const { status } = settlement
    if (status !== 'deferred') {
      // Out of the queue it was taken from, which is another provider's when this one stood in.
      const [, provider = place.provider] = queue.split('.')
      meter.wentOut({ stage: 'dispatch', stream: place.stream, provider }, 1)
    }
    meter.happened(status, place, 1)
    if (settlement.attempt > 1) meter.happened('retried', place, 1)
    if (status === 'sent') meter.took('time_to_send', place, (endedAt.getTime() - dueAt.getTime()) / 1_000)
  }
}
