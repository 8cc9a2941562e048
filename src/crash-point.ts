import { channel } from 'node:diagnostics_channel'

/**
 * The places between a side effect and its commit, or a commit and what follows from it, by name. Whoever wants to see
 * what becomes of mail when a process dies there subscribes to the channel before the service starts
 * (scripts/failure/die-at.ts); nothing of the product does, and no setting makes it.
 */
export const CRASH_POINTS = {
  'intake.received': 'a request was read, and nothing of it is written',
  'intake.attachments-kept': 'the bytes of attachments are stored, and the message that names them is not',
  'intake.appended': 'the message lies in the unlogged intake, and nobody was told',
  'intake.before-answer': 'the message is committed, and its caller not told yet',
  'many.before-commit': 'all messages of a batch and their key are written, and not committed',
  'many.committed': 'all messages of a batch and their key are committed, and the caller not told yet',
  'mover.taken':
    'messages are taken from their callers, or their rows deleted from the doors, and nothing is stored',
  'mover.before-commit': 'messages and jobs are about to be written, and nothing is committed',
  'mover.committed': 'messages, keys and jobs are committed, and waiting callers not told yet',
  'schedule.before-commit': 'messages that are due are released with their jobs, and it is not committed',
  'schedule.committed': 'messages that are due are released, and no bell was rung',
  'processing.claimed': 'a batch is claimed for processing',
  'processing.prepared': 'a batch is rendered, checked and routed, and nothing of it is written',
  'processing.before-commit':
    'messages are marked and their jobs ended, and what was rendered is about to be written with the jobs to send it',
  'processing.committed':
    'what was rendered is committed, with the claims to send it where it goes from hand to hand, and nobody was told',
  'fetching.claimed': 'a message is claimed whose attachments are to be fetched',
  'fetching.kept': 'the bytes of a fetched attachment are stored, and the message does not use them yet',
  'fetching.before-commit': 'what was fetched is noted with the next job, and not committed',
  'fetching.committed': 'what was fetched is committed, and no bell was rung',
  'dispatch.tokens-taken': 'tokens of the provider are taken, and no message is claimed',
  'dispatch.before-claim-commit': 'messages are marked as being sent, and it is not committed',
  'dispatch.claimed': 'messages are claimed for sending, and no request has begun',
  'smtp.connected': 'the relay said hello, and heard nothing of the message',
  'smtp.before-content': 'the relay said "go ahead", and has nothing of the content',
  'smtp.content-sent': 'the relay was given the end of the content, and has not answered',
  'smtp.answered': 'the relay said that it has the message, and nothing of it is noted',
  'http.before-last-byte': 'the provider has all of a request but its last byte',
  'http.request-sent': 'the provider was given the last byte of a request, and has not answered',
  'http.answered': 'the provider said that it has the message, and nothing of it is noted',
  'settle.begun': 'outcomes are in memory, and no statement has left for the database',
  'settle.before-commit': 'outcomes are written with the end of their jobs, and not committed',
  'settle.committed': 'outcomes are committed, and still in the memory of who wrote them',
  'rescue.before-commit': 'the work of a dead worker is given back, and it is not committed',
  'rescue.committed': 'the work of a dead worker is given back',
  'feedback.before-store-commit': 'a webhook of a provider is written with its job, and not committed',
  'feedback.stored': 'a webhook of a provider is committed, and the provider not told yet',
  'feedback.before-commit': 'what a provider told is applied, and not committed',
  'feedback.committed': 'what a provider told is applied and committed',
  'fan-out.before-commit': 'who is to be told of an event is written with the cursor, and not committed',
  'fan-out.committed': 'who is to be told of an event is committed, and no bell was rung',
  'webhook.claimed': 'an event is claimed for telling an endpoint, and no request has begun',
  'webhook.told': 'the endpoint has answered, and nothing of it is noted',
  'webhook.before-commit': 'what the endpoint answered is written, and not committed',
  'webhook.committed': 'what the endpoint answered is committed',
  'alert.claimed': 'an alert is claimed for telling a target, and no request has begun',
  'alert.told': 'the target has taken the alert, and nothing of it is noted',
  'alert.noted': 'that the target has taken the alert is committed',
  'retention.step-done': 'one step of retention is committed, and the next has not begun',
  'erasure.committed': 'an address is erased, and whoever asked was not told yet',
  'migrate.before-commit': 'a migration has run, and is not committed',
  'migrate.committed': 'a migration is committed, and those after it have not begun',
  'migrate.before-grants': 'all migrations are committed, and the rights of the roles are not settled',
} as const

export type CrashPoint = keyof typeof CRASH_POINTS

export const CRASH_CHANNEL = 'sluice:crash-point'
const crashes = channel(CRASH_CHANNEL)

/** Says that this point is reached. Without a subscriber, which is always outside of failure runs, one comparison. */
export function reached(point: CrashPoint): void {
  if (crashes.hasSubscribers) crashes.publish(point)
}
