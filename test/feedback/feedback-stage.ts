import { createBounceAddresses } from '../../src/bounce-address.ts'
import { readCatalog } from '../../src/catalog.ts'
import { MACHINE_CLOCK } from '../../src/database-clock.ts'
import { openPool } from '../../src/db/pool.ts'
import type { FeedbackEvent } from '../../src/feedback/event.ts'
import type { PinnedFetch } from '../../src/feedback/pinned-fetch.ts'
import { Receiver } from '../../src/feedback/receive.ts'
import { createFeedbackLoop, type FeedbackDeps } from '../../src/feedback/worker.ts'
import { createApp } from '../../src/http/app.ts'
import { Keyring } from '../../src/keys/keyring.ts'
import { createLog } from '../../src/log.ts'
import { Bells } from '../../src/queue/bells.ts'
import { startBoss } from '../../src/queue/boss.ts'
import type { WebhookKind } from '../../src/webhook-kinds.ts'
import type { TestDatabase } from '../support/database.ts'
import { TEST_KEY } from '../support/service.ts'
import { type Call, MAILGUN_SECRET, POSTMARK_SECRET, SENDGRID_SECRET, STANDARD_SECRET } from './proofs.ts'
import { SIGNER_CERTIFICATE, SNS_NOW, TOPIC } from './sns-signer.ts'

/** What a pipe or an inbound route brings with a mail, for the source `pipe`. */
export const PIPE_LOGIN = 'postfix:correct-horse-battery'
export const PIPE_TOKEN = 'inbound-route-token-0123456789'

/** The key is that of the addresses in reports/. */
export const BOUNCE_ADDRESSES = createBounceAddresses(Buffer.alloc(32, 7))

/** Secrets as an operator would set them; the second one of a pair is on its way out. */
const ENVIRONMENT = {
  RESEND_SECRET: `${STANDARD_SECRET}, whsec_${Buffer.alloc(24, 9).toString('base64')}`,
  SENDGRID_KEY: SENDGRID_SECRET,
  MAILGUN_KEY: MAILGUN_SECRET,
  POSTMARK_LOGIN: POSTMARK_SECRET,
  PIPE_LOGIN: `${PIPE_LOGIN} ${PIPE_TOKEN}`,
}

const SOURCES: readonly { kind: WebhookKind; name?: string; variable: string | null; options?: object }[] = [
  { kind: 'ses', variable: null, options: { topic_arns: [TOPIC] } },
  { kind: 'sendgrid', variable: 'SENDGRID_KEY' },
  { kind: 'mailgun', variable: 'MAILGUN_KEY' },
  { kind: 'postmark', variable: 'POSTMARK_LOGIN' },
  { kind: 'resend', variable: 'RESEND_SECRET' },
  { kind: 'generic', variable: 'RESEND_SECRET' },
  { kind: 'dsn', name: 'pipe', variable: 'PIPE_LOGIN' },
]

/** The feedback stage over a database, with a source of each kind called by its kind; nothing is applied by itself. */
export async function openFeedback(database: TestDatabase) {
  const log = createLog('silent')
  const { db, pool, close } = openPool({ url: database.url, maxConnections: 8, role: undefined, log })
  const boss = await startBoss(pool, log)
  const bells = new Bells(pool, log)
  bells.hasPeers = false
  for (const { kind, name = kind, variable, options = {} } of SOURCES) {
    await database.query(
      'insert into mail.webhook_source (name, kind, secrets_env, options) values ($1, $2, $3, $4)',
      [name, kind, variable, options],
    )
  }
  const clock = { nowMs: SNS_NOW }
  const asked: string[] = []
  const fetch: PinnedFetch = async (url) => {
    asked.push(url)
    return { kind: 'answered', status: 200, body: SIGNER_CERTIFICATE }
  }
  const receiver = new Receiver({
    ...{ db, boss, bells, log, fetch },
    environment: ENVIRONMENT,
    now: () => clock.nowMs,
  })
  const app = createApp({
    db,
    log,
    clock: MACHINE_CLOCK,
    keyring: new Keyring(db, TEST_KEY),
    catalog: { current: await readCatalog(db) },
    maxBodyBytes: 100_000,
    acceptTimeoutMs: 1_000,
    accept: () => Promise.reject(new Error('not here')),
    acceptMany: () => Promise.reject(new Error('not here')),
    bulk: { maxBytes: 100_000, slots: 1, slotWaitMs: 0, silenceMs: 1_000, totalMs: 1_000 },
    admit: () => undefined,
    checkTemplate: async () => undefined,
    previewTemplate: () => Promise.reject(new Error('not here')),
    readUnsubscribeToken: () => undefined,
    unsubscribe: () => Promise.reject(new Error('not part of this stage')),
    hasInbox: false,
    stopping: new AbortController().signal,
    publicUrl: undefined,
    metrics: 'elsewhere',
    webhookHosts: [],
    testAlertTarget: async () => undefined,
    receiveWebhook: (kind, endpoint, call) => receiver.receive(kind, endpoint, call),
  })
  database.beforeDrop(async () => {
    await receiver.finish()
    bells.stop()
    await boss.stop({ graceful: false })
    await close()
  })
  return {
    ...{ db, boss, app, receiver, asked, clock },
    post: (path: string, { headers, body }: Call) =>
      app.request(path, { method: 'POST', headers: { ...headers }, body: new Uint8Array(body) }),
    /** A worker's loop that applies with this; stopped before the database is dropped. */
    startLoop: (apply: (...told: Parameters<FeedbackDeps['applyFeedback']>) => Promise<unknown>) => {
      const loop = createFeedbackLoop({
        db,
        boss,
        bells,
        log,
        bounceAddresses: BOUNCE_ADDRESSES,
        applyFeedback: async (trx, events) => {
          await apply(trx, events)
          return new Set()
        },
      })
      loop.start()
      database.beforeDrop(() => loop.stop())
      return loop
    },
  }
}

/** Keeps what it is told, each event once by its key, as applying has to. */
export function recorder() {
  const told: FeedbackEvent[] = []
  const byKey = new Map<string, FeedbackEvent>()
  return {
    /** Every event, as often as it was told. */
    told,
    byKey,
    applyFeedback: async (_trx: unknown, events: readonly FeedbackEvent[]) => {
      told.push(...events)
      for (const event of events) byKey.set(event.key, event)
    },
  }
}
