/** Of a message as JSON text, at the REST door without the bytes of its attachments; both doors hold to it (migrations/0001_intake.sql). */
export const MAX_MESSAGE_BYTES = 32 * 1_024 * 1_024

/** One mailbox: the address as it goes on the envelope, and the display name if there is one. */
export type Address = { readonly address: string; readonly name?: string }

export type TemplateReference = {
  /** The template's id, its alias or its name. */
  readonly id: string
  /** Unset: the latest published version when the message is processed. */
  readonly version?: number
  readonly variables: Readonly<Record<string, unknown>>
}

/** Bytes that are in `mail.attachment`. */
export type StoredAttachment = {
  readonly filename: string
  readonly content_type: string
  /** What `cid:` in the HTML refers to (RFC 2392). */
  readonly content_id?: string
  /** Of the bytes, in lower-case hex. */
  readonly sha256: string
  /** In bytes. */
  readonly size: number
  /** Of sensitive mail, whose stored bytes are encrypted: what opens them (src/sealer.ts). Hash and size are of what is stored. */
  readonly key?: string
}

/** Bytes that processing has yet to fetch. */
export type RemoteAttachment = Omit<StoredAttachment, 'sha256' | 'size' | 'key'> & {
  readonly path: string
}

export type Attachment = StoredAttachment | RemoteAttachment

/** Of all attachments of a message together, decoded; Resend's limit. */
export const MAX_ATTACHMENTS_BYTES = 40 * 1_024 * 1_024

/** A message as it is stored: checked, trimmed, addresses parsed, absent lists empty. */
export type Message = {
  /** Absent only when a template supplies it. */
  readonly from?: Address
  readonly to: readonly Address[]
  readonly cc: readonly Address[]
  readonly bcc: readonly Address[]
  readonly reply_to: readonly Address[]
  /** Absent only when a template supplies it. */
  readonly subject?: string
  readonly html?: string
  readonly text?: string
  readonly headers: Readonly<Record<string, string>>
  readonly tags: readonly { readonly name: string; readonly value: string }[]
  readonly metadata: Readonly<Record<string, string>>
  readonly template?: TemplateReference
  /** ISO 8601 in UTC, and in the future when the message was accepted; absent: at once. */
  readonly scheduled_at?: string
  readonly attachments?: readonly Attachment[]
  readonly stream?: string
  /** 0 goes first, 9 last; unset: the stream's own. */
  readonly priority?: number
  /** Its content is encrypted wherever it is stored; set too when only its stream says so. */
  readonly sensitive?: true
}
