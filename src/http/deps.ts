import type { Catalog, Stream } from '../catalog.ts'
import type { Clock } from '../database-clock.ts'
import type { Database } from '../db/pool.ts'
import type { Keyring } from '../keys/keyring.ts'
import type { Log } from '../log.ts'
import type { Message } from '../message/message.ts'
import type { MessageLimits } from '../message/message-schema.ts'
import type { AnsweredRequest } from '../metrics/http-requests.ts'
import type { Metrics } from '../metrics/metrics.ts'
import type { ListedHost } from '../network/listed-hosts.ts'
import type { Sealer } from '../sealer.ts'
import type { DeclaredVariable, TemplatePartial } from '../templates/template-content.ts'
import type { CheckedSource, PublishDeps } from '../templates/template-publish.ts'
import type { UnsubscribeLinks, Unsubscription } from '../unsubscribe-links.ts'
import type { WebhookKind } from '../webhook-kinds.ts'

/** What one message is handed in with. */
export type Submission = {
  readonly id: string
  readonly priority: number
  readonly stream: string
  readonly idempotencyKey: string | null
  readonly source: string
  /** The body as JSON text, and as it was read. */
  readonly message: string
  readonly parsed: Message
}

export type Accepted = {
  readonly id: string
  readonly durability: 'durable' | 'buffered'
  readonly isReplay: boolean
}

/** Messages that are accepted together or not at all. */
export type ManySubmissions = {
  readonly key: string | null
  /** As they come in; an error thrown here undoes all that was stored. */
  readonly chunks: AsyncIterable<readonly Submission[]>
  /** Asked at the end: what was given, and what the answer says beside the ids. */
  readonly seal: () => {
    readonly fingerprint: Buffer
    readonly otherFingerprints?: readonly Buffer[]
    readonly answer: object | null
  }
  /** For each statement. */
  readonly timeoutMs?: number
}

export type ManyAccepted = {
  /** In the order given. */
  readonly ids: readonly string[]
  readonly isReplay: boolean
  readonly answer: object | null
}

/** What `POST /emails/bulk` may take of this process. */
export type BulkLimits = {
  readonly maxBytes: number
  /** At once; more wait for a moment, then hear 429. */
  readonly slots: number
  readonly slotWaitMs: number
  /** A sender that is silent for so long is given up, and so is one that is not done in all. */
  readonly silenceMs: number
  readonly totalMs: number
}

/** A version to be rendered once, and what it uses. */
export type PreviewSource = Omit<CheckedSource, 'partials'> & {
  readonly variables: readonly DeclaredVariable[]
  readonly partials: readonly TemplatePartial[]
}

export type Preview =
  | {
      readonly ok: true
      readonly rendered: { readonly subject?: string; readonly html?: string; readonly text?: string }
      readonly missing?: readonly string[]
    }
  | { readonly ok: false; readonly reason: string }

/** One call of a provider's webhook, as it came. */
export type WebhookCall = {
  readonly header: (name: string) => string | undefined
  readonly body: Buffer
  /** It came with an API key that may operate. */
  readonly isVouchedFor?: boolean
}

/** `put_off`: nothing is wrong with it, and it could not be checked or stored now. */
export type WebhookReceipt = 'taken' | 'no_such_endpoint' | 'refused' | 'put_off'

/** What the routes need; the stages are handed in by service.ts and not imported here. */
export type AppDeps = {
  readonly db: Database
  readonly log: Log
  /** The database's: what a moment of a message is compared with. */
  readonly clock: Clock
  readonly keyring: Keyring
  readonly catalog: { readonly current: Catalog }
  readonly maxBodyBytes: number
  readonly acceptTimeoutMs: number
  /** Absent: the limits every installation has. */
  readonly messageLimits?: MessageLimits
  /** Absent: no keys, so sensitive mail is refused. */
  readonly sealer?: Sealer
  /** Throws an ApiError when the message was not accepted. */
  readonly accept: (row: Submission, options: { mayBuffer: boolean; timeoutMs: number }) => Promise<Accepted>
  /** Stores them durably, all or none; throws an ApiError when they were not. */
  readonly acceptMany: (many: ManySubmissions) => Promise<ManyAccepted>
  readonly bulk: BulkLimits
  /** Throws an ApiError, 429 or 503, while the doors are too full for mail of this stream, or for any. */
  readonly admit: (stream?: Stream) => void
  readonly checkTemplate: PublishDeps['checkTemplate']
  readonly previewTemplate: (
    source: PreviewSource,
    variables: Readonly<Record<string, unknown>>,
  ) => Promise<Preview>
  readonly readUnsubscribeToken: UnsubscribeLinks['read']
  /** Safe to repeat. */
  readonly unsubscribe: (unsubscription: Unsubscription) => Promise<void>
  readonly hasInbox: boolean
  /** Aborted when the service begins to stop: what would go on for ever ends. */
  readonly stopping: AbortSignal
  /** How browsers reach us, without a slash at its end; undefined where nobody said. */
  readonly publicUrl: string | undefined
  /** Verifies a call and stores it durably; rejects only when the database cannot be reached. */
  /** Where webhooks may go beside the public internet. */
  readonly webhookHosts: readonly ListedHost[]
  readonly receiveWebhook: (kind: WebhookKind, endpoint: string, call: WebhookCall) => Promise<WebhookReceipt>
  /** Why a target could not be told of a test, or null when it was; undefined when there is no such target. */
  readonly testAlertTarget: (id: string) => Promise<string | null | undefined>
  /** What `GET /metrics` answers; `elsewhere` when it has a port of its own. Never throws. */
  readonly metrics: Metrics['scrape'] | 'elsewhere'
  readonly onRequest?: (request: AnsweredRequest) => void
}
