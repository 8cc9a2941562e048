import type { CrashPoint } from '../../../src/crash-point.ts'
import { type MailWay, mailTo } from './mail.ts'
import { alert, erasure, feedback, migration, retention, webhook } from './others.ts'
import type { Stage } from './stage.ts'

export type Case = {
  /** What is different from one message over SMTP with on_unknown = retry; empty when nothing is. */
  readonly variant: string
  readonly perform: (stage: Stage, point: CrashPoint) => Promise<string>
  /** Exactly what follows from a death there. */
  readonly follows: string
  /** Part of `npm test`. */
  readonly isTelling?: true
  readonly isEmptyDatabase?: true
}

const BROKE = 'the connection broke; the repeat got its id'
const ANSWERED = 'answered 200; the repeat got its id'
const ONCE = '1 copy, sent after 1 attempt (accepted, queued, sent)'
/** The worker died before the provider could have the whole of it. */
const AGAIN = '1 copy, sent after 2 attempts (accepted, queued, recovered, sent)'
/** The one window for a duplicate. */
const TWICE = '2 copies, sent after 2 attempts (accepted, queued, recovered, sent)'
/** `hold`: a person or a provider's event says which of the two it is. */
const HELD_UNSENT = '0 copies, unknown after 1 attempt (accepted, queued, unknown)'
const HELD_SENT = '1 copy, unknown after 1 attempt (accepted, queued, unknown)'

const HOLD: MailWay = { onUnknown: 'hold' }
const HTTP: MailWay = { isHttp: true }
const HTTP_HOLD: MailWay = { isHttp: true, onUnknown: 'hold' }
const BATCH: MailWay = { door: 'batch' }
const BUFFERED: MailWay = { door: 'buffered' }
const LATER: MailWay = { isScheduled: true }
const BY_URL: MailWay = { attachment: 'by URL' }
const METERED: MailWay = { isMetered: true }

const TOLD_ONCE = 'told once; 1 delivery, counted as 1 attempt'
const TOLD_TWICE = 'told twice; under 1 webhook-id; 1 delivery, counted as 1 attempt'
const NEXT_START = 'the next start does the rest and is ready (200)'

/** What follows from a death at each point: the table of docs/crash-points.md. */
export const CASES: Readonly<Record<CrashPoint, readonly Case[]>> = {
  'intake.received': [mail({}, `${BROKE}; ${ONCE}`)],
  'intake.attachments-kept': [mail({ attachment: 'inline' }, `${BROKE}; ${ONCE}`)],
  'intake.appended': [telling(mail(BUFFERED, `${BROKE}; ${ONCE}`))],
  'intake.before-answer': [telling(mail({}, `${BROKE}; ${ONCE}`))],
  'many.before-commit': [mail(BATCH, `${BROKE}; ${ONCE}`)],
  'many.committed': [mail(BATCH, `${BROKE}; ${ONCE}`)],
  'mover.taken': [mail({}, `${BROKE}; ${ONCE}`), mail(BUFFERED, `${BROKE}; ${ONCE}`)],
  'mover.before-commit': [mail({}, `${BROKE}; ${ONCE}`), mail(BUFFERED, `${BROKE}; ${ONCE}`)],
  'mover.committed': [mail({}, `${BROKE}; ${ONCE}`), mail(BUFFERED, `${BROKE}; ${ONCE}`)],
  'schedule.before-commit': [mail(LATER, `${ANSWERED}; ${scheduled(ONCE)}`)],
  'schedule.committed': [mail(LATER, `${ANSWERED}; ${scheduled(ONCE)}`)],
  'processing.claimed': [mail({}, `${BROKE}; ${ONCE}`)],
  'processing.prepared': [mail({}, `${ANSWERED}; ${ONCE}`)],
  'processing.before-commit': [mail({}, `${ANSWERED}; ${ONCE}`)],
  'processing.committed': [mail({}, `${ANSWERED}; ${AGAIN}`), mail(HOLD, `${ANSWERED}; ${ONCE}`)],
  'fetching.claimed': [mail(BY_URL, `${ANSWERED}; ${ONCE}`)],
  'fetching.kept': [mail(BY_URL, `${ANSWERED}; ${ONCE}`)],
  'fetching.before-commit': [mail(BY_URL, `${ANSWERED}; ${ONCE}`)],
  'fetching.committed': [mail(BY_URL, `${ANSWERED}; ${ONCE}`)],
  'dispatch.tokens-taken': [mail(METERED, `${ANSWERED}; ${ONCE}; 2 tokens`)],
  'dispatch.before-claim-commit': [
    mail({}, `${ANSWERED}; ${ONCE}`),
    mail(METERED, `${ANSWERED}; ${ONCE}; 2 tokens`),
  ],
  'dispatch.claimed': [
    mail({}, `${ANSWERED}; ${AGAIN}`),
    mail(METERED, `${ANSWERED}; ${AGAIN}; 2 tokens`),
    mail(HOLD, `${ANSWERED}; ${HELD_UNSENT}`),
  ],
  'smtp.connected': [mail({}, `${ANSWERED}; ${AGAIN}`), mail(HOLD, `${ANSWERED}; ${HELD_UNSENT}`)],
  'smtp.before-content': [mail({}, `${ANSWERED}; ${AGAIN}`), mail(HOLD, `${ANSWERED}; ${HELD_UNSENT}`)],
  'smtp.content-sent': [mail({}, `${ANSWERED}; ${TWICE}`), mail(HOLD, `${ANSWERED}; ${HELD_SENT}`)],
  'smtp.answered': [
    telling(mail({}, `${ANSWERED}; ${TWICE}`)),
    telling(mail(HOLD, `${ANSWERED}; ${HELD_SENT}`)),
  ],
  'http.before-last-byte': [
    mail(HTTP, `${ANSWERED}; ${AGAIN}`),
    mail(HTTP_HOLD, `${ANSWERED}; ${HELD_UNSENT}`),
  ],
  'http.request-sent': [mail(HTTP, `${ANSWERED}; ${TWICE}`), mail(HTTP_HOLD, `${ANSWERED}; ${HELD_SENT}`)],
  'http.answered': [mail(HTTP, `${ANSWERED}; ${TWICE}`), mail(HTTP_HOLD, `${ANSWERED}; ${HELD_SENT}`)],
  'settle.begun': [mail({}, `${ANSWERED}; ${TWICE}`), mail(HOLD, `${ANSWERED}; ${HELD_SENT}`)],
  'settle.before-commit': [mail({}, `${ANSWERED}; ${TWICE}`), mail(HOLD, `${ANSWERED}; ${HELD_SENT}`)],
  'settle.committed': [telling(mail({}, `${ANSWERED}; ${ONCE}`)), mail(HOLD, `${ANSWERED}; ${ONCE}`)],
  'rescue.before-commit': [mail({ secondDeath: 'rescue.before-commit' }, `${ANSWERED}; ${TWICE}`)],
  'rescue.committed': [mail({ secondDeath: 'rescue.committed' }, `${ANSWERED}; ${TWICE}`)],
  'feedback.before-store-commit': [
    other(feedback, heard('the connection broke, and the repeat was answered 200')),
  ],
  'feedback.stored': [other(feedback, heard('the connection broke, and the repeat was answered 200'))],
  'feedback.before-commit': [other(feedback, heard('answered 200'))],
  'feedback.committed': [other(feedback, heard('answered 200'))],
  'fan-out.before-commit': [other(webhook, TOLD_ONCE)],
  'fan-out.committed': [other(webhook, TOLD_ONCE)],
  'webhook.claimed': [other(webhook, TOLD_ONCE)],
  'webhook.told': [other(webhook, TOLD_TWICE)],
  'webhook.before-commit': [other(webhook, TOLD_TWICE)],
  'webhook.committed': [other(webhook, TOLD_ONCE)],
  'alert.claimed': [other(alert, 'told once; 1 message to the target')],
  'alert.told': [other(alert, 'told twice; under 1 webhook-id; 1 message to the target')],
  'alert.noted': [other(alert, 'told once; 1 message to the target')],
  'retention.step-done': [other(retention, '0 keys and 1 addresses left; later 0 keys and 0 addresses left')],
  'erasure.committed': [
    other(erasure, 'the connection broke; the repeat says that it is complete; 0 messages name the address'),
  ],
  'migrate.before-commit': [onNothing(migration, `ended by SIGKILL with 0 migrations; ${NEXT_START}`)],
  'migrate.committed': [onNothing(migration, `ended by SIGKILL with 1 migrations; ${NEXT_START}`)],
  'migrate.before-grants': [onNothing(migration, `ended by SIGKILL with all migrations; ${NEXT_START}`)],
}

function mail(way: MailWay, follows: string): Case {
  return { variant: variantOf(way), perform: (stage, point) => mailTo(stage, point, way), follows }
}

function variantOf(way: MailWay): string {
  return [
    ...(way.onUnknown === 'hold' ? ['on_unknown = hold'] : []),
    ...(way.door === 'batch' ? ['a batch of two'] : []),
    ...(way.door === 'buffered' ? ['a caller content with `buffered`'] : []),
    ...(way.attachment === undefined ? [] : [`an attachment ${way.attachment}`]),
    ...(way.isScheduled ? ['scheduled'] : []),
    ...(way.isHttp ? ['an HTTP API'] : []),
    ...(way.isMetered ? ['a provider with a quota'] : []),
    ...(way.secondDeath === undefined ? [] : ['a worker that died in a send before']),
  ].join(', ')
}

function other(perform: Case['perform'], follows: string): Case {
  return { variant: '', perform, follows }
}

function onNothing(perform: Case['perform'], follows: string): Case {
  return { ...other(perform, follows), isEmptyDatabase: true }
}

function telling(each: Case): Case {
  return { ...each, isTelling: true }
}

function scheduled(follows: string): string {
  return follows.replace('accepted', 'scheduled')
}

function heard(answer: string): string {
  return `${answer}; stored once; the message is delivered (delivered)`
}
