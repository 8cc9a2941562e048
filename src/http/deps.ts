import type { Catalog } from '../catalog.ts'
import type { Database } from '../db/pool.ts'
import type { Keyring } from '../keyring.ts'
import type { Log } from '../log.ts'
import type { Message } from '../message.ts'
import type { DeclaredVariable, TemplatePartial } from '../template-content.ts'
import type { CheckedSource, PublishDeps } from '../template-publish.ts'
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
}

/** What the routes need; the stages are handed in by service.ts and not imported here. */
export type AppDeps = {
  readonly db: Database
  readonly log: Log
  readonly keyring: Keyring
  readonly catalog: { readonly current: Catalog }
  readonly maxBodyBytes: number
  readonly acceptTimeoutMs: number
  /** Throws an ApiError when the message was not accepted. */
  readonly accept: (row: Submission, options: { mayBuffer: boolean; timeoutMs: number }) => Promise<Accepted>
  readonly checkTemplate: PublishDeps['checkTemplate']
  readonly previewTemplate: (
    source: PreviewSource,
    variables: Readonly<Record<string, unknown>>,
  ) => Promise<Preview>
  readonly hasInbox: boolean
  /** Verifies a call and stores it durably; rejects only when the database cannot be reached. */
  readonly receiveWebhook: (
    kind: WebhookKind,
    endpoint: string,
    call: WebhookCall,
  ) => Promise<'taken' | 'no_such_endpoint' | 'refused' | 'put_off'>
}
