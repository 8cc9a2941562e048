import type { Catalog } from '../catalog.ts'
import type { Database } from '../db/pool.ts'
import type { Keyring } from '../keyring.ts'
import type { Log } from '../log.ts'
import type { Message } from '../message.ts'

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

export type TemplateParts = {
  readonly subject: string | null
  readonly html: string | null
  readonly text: string | null
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
  /** Why these parts are not a usable template, or undefined when they are. */
  readonly checkTemplate: (parts: TemplateParts) => Promise<string | undefined>
  readonly hasInbox: boolean
}
