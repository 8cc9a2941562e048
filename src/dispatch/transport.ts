import type { OutgoingMail } from './compose.ts'

/** The slowest link on which 40 MB of attachments still go out: 1 Mbit/s. */
export const UPLOAD_BYTES_PER_MS = 125

/** The envelope of one send (RFC 5321 section 2.3.1): it decides who gets the mail, whatever the headers say. */
export type Envelope = {
  /** The return path; empty is the null sender of a notification (RFC 5321 section 4.5.5). */
  readonly from: string
  readonly to: readonly string[]
}

/** One mail on its way out. Bcc recipients are on the envelope only. */
export type Outgoing = { readonly mail: OutgoingMail; readonly envelope: Envelope }

/** Refused for good: the same message to the same recipients would be refused again. */
export const REFUSED_CODES = [
  'attachment_missing',
  'bad_recipient',
  'content_damaged',
  'content_refused',
  'encryption_key_missing',
  'invalid_envelope',
  'malformed_message',
  'message_too_large',
  'policy_refused',
  'recipient_suppressed',
  'request_refused',
  'sender_refused',
  'smtp_refused',
] as const

/** Refused for now, by a server that looked at this message. */
export const DEFERRED_CODES = [
  'mailbox_full',
  'provider_deferred',
  'request_in_progress',
  'server_out_of_space',
  'service_unavailable',
  'session_fault',
  'smtp_deferred',
  'too_many_recipients',
] as const

/** No server would talk to us, or not now; says nothing about the message. */
export const UNREACHABLE_CODES = [
  'aborted',
  'account_paused',
  'attachments_not_loaded',
  'auth_failed',
  'auth_needs_tls',
  'auth_unavailable',
  'claim_lost',
  'connect_failed',
  'connection_lost',
  'dns_failed',
  'protocol_error',
  'provider_misconfigured',
  'quota_exceeded',
  'sender_unverified',
  'service_unavailable',
  'throttled',
  'timed_out',
  'tls_failed',
  'transport_closed',
] as const

/** The message was handed over and its answer never understood. */
export const UNKNOWN_CODES = [
  'aborted',
  'connection_lost',
  'idempotency_conflict',
  'protocol_error',
  'timed_out',
] as const

export type RefusedCode = (typeof REFUSED_CODES)[number]
export type DeferredCode = (typeof DEFERRED_CODES)[number]
export type UnreachableCode = (typeof UNREACHABLE_CODES)[number]
export type UnknownCode = (typeof UNKNOWN_CODES)[number]

/** What a fault means for the message, before the words of the server are added to it. */
export type Verdict =
  | { readonly kind: 'refused'; readonly code: RefusedCode }
  | { readonly kind: 'deferred'; readonly code: DeferredCode }
  | { readonly kind: 'unreachable'; readonly code: UnreachableCode }
  | { readonly kind: 'unknown'; readonly code: UnknownCode }

/** What a provider's HTTP API calls the fault. */
export type ProviderFault = {
  readonly httpStatus?: number
  /** The provider's own name or number for it, such as `MessageRejected` or `406`. */
  readonly providerCode?: string
}

/** What a provider said about its limits, beside its answer. */
export type ProviderRate = {
  /** What may still be sent before the limit is full again. */
  readonly remaining?: number
  /** Milliseconds from now until it is. */
  readonly resetMs?: number
  /** The provider asked for silence: milliseconds from now before which nothing should be sent. */
  readonly pauseMs?: number
}

/** A server's answer. `reply` is safe to store and log: bounded, well-formed, without control characters. */
export type ServerReply = ProviderFault & {
  readonly reply?: string
  /** Three digits, RFC 5321 section 4.2. */
  readonly smtpCode?: number
  /** RFC 3463, such as `5.1.1`. */
  readonly enhancedCode?: string
}

/** One recipient refused, whatever became of the others. */
export type RefusedRecipient = ServerReply & {
  readonly recipient: string
  /** False: the server said "not now", and this recipient alone may be tried again. */
  readonly permanent: boolean
  readonly code: Verdict['code']
}

export type SendOutcome = {
  readonly rate?: ProviderRate
} /** The server took responsibility for every recipient that is not in `refused`. */ & (
  | {
      readonly kind: 'accepted'
      readonly reply: string
      /** The provider's id of the mail, where its answer names one; its events carry the same. */
      readonly providerMessageId?: string
      readonly refused: readonly RefusedRecipient[]
    }
  /** No retry helps. `recipients` when each of them was refused by itself, and not the message as a whole. */
  | ({
      readonly kind: 'refused'
      readonly code: RefusedCode
      readonly recipients?: readonly RefusedRecipient[]
    } & ServerReply)
  /** A retry may help; this was a real attempt. `recipients` as with a refusal. */
  | ({
      readonly kind: 'deferred'
      readonly code: DeferredCode
      readonly recipients?: readonly RefusedRecipient[]
    } & ServerReply)
  /** Nothing was accepted and the message is not at fault: costs no attempt. */
  | ({
      readonly kind: 'unreachable'
      readonly code: UnreachableCode
      readonly reason: string
    } & ProviderFault)
  /** The message was handed over and the answer never came: it may have been accepted. */
  | ({ readonly kind: 'unknown'; readonly code: UnknownCode; readonly reason: string } & ProviderFault)
)

/**
 * Asked at the last moment before a server can have the whole of a mail: whether it is still ours to send. A process that
 * was stopped, or cut off from the database, may have been taken for dead and its mail given to others.
 */
export type StillOurs = () => boolean | Promise<boolean>

export const CLAIM_LOST = {
  kind: 'unreachable',
  code: 'claim_lost',
  reason: 'not handed over: this worker was cut off from the database or stood still, and others may send it',
} as const satisfies SendOutcome

/** A way out for mail. Safe to call concurrently. */
export type Transport = {
  /**
   * Sends `mail` to `envelope.to`. Never rejects: whatever happens is an outcome, and a mail that cannot be composed is
   * refused as `malformed_message`. An aborted signal ends the send at once, as `unknown` when the message was already
   * handed over. Nothing is handed over once `isStillOurs` says no.
   */
  send(outgoing: Outgoing, signal?: AbortSignal, isStillOurs?: StillOurs): Promise<SendOutcome>
  /** For providers that take many messages at once. */
  readonly batch?: {
    /** The most messages worth handing over together. */
    readonly size: number
    /** Mail with attachments can stand in a batch. It may be given to `send` all the same, and then costs a request. */
    readonly takesAttachments: boolean
    /** As `send`: one outcome each, in the same order. */
    send(
      outgoing: readonly Outgoing[],
      signal?: AbortSignal,
      isStillOurs?: StillOurs,
    ): Promise<readonly SendOutcome[]>
  }
  /** Lets sends in flight finish, takes no new ones, and resolves when every connection is closed. */
  close(): Promise<void>
}

/**
 * A dot-atom and a host name, ASCII only. Stored addresses are so already; this guards the wire against one that is not,
 * because a space, a line break or an angle bracket in it would change who gets the mail.
 */
const WIRE_ADDRESS = /^[\w!#$%&'*+/=?^`{|}~.-]{1,64}@[A-Za-z0-9.-]+$/
/** RFC 5321 section 4.5.3.1.3: a path is 256 octets, brackets included. */
const MAX_ADDRESS_CHARS = 254

/** Speaks SMTP, and what it says after the content names nothing that events would bring. */
export function isRelay(transport: string | undefined): boolean {
  return transport === 'smtp' || transport === 'inbox'
}

/** Whether an address may stand on the envelope and in an address header as it is. */
export function isWireAddress(address: string): boolean {
  return address.length <= MAX_ADDRESS_CHARS && WIRE_ADDRESS.test(address)
}

/** Whether an envelope can go over the wire unchanged and has anybody to go to. */
export function isSendable({ from, to }: Envelope): boolean {
  return (from === '' || isWireAddress(from)) && to.length > 0 && to.every(isWireAddress)
}
