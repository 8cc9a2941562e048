/** The envelope of one send (RFC 5321 section 2.3.1): it decides who gets the mail, whatever the headers say. */
export type Envelope = {
  /** The return path; empty is the null sender of a notification (RFC 5321 section 4.5.5). */
  readonly from: string
  readonly to: readonly string[]
}

/** Refused for good: the same message to the same recipients would be refused again. */
export const REFUSED_CODES = [
  'bad_recipient',
  'content_refused',
  'invalid_envelope',
  'malformed_message',
  'message_too_large',
  'policy_refused',
  'sender_refused',
  'smtp_refused',
] as const

/** Refused for now, by a server that looked at this message. */
export const DEFERRED_CODES = [
  'mailbox_full',
  'server_out_of_space',
  'service_unavailable',
  'session_fault',
  'smtp_deferred',
  'too_many_recipients',
] as const

/** No server would talk to us, or not now; says nothing about the message. */
export const UNREACHABLE_CODES = [
  'aborted',
  'auth_failed',
  'auth_needs_tls',
  'auth_unavailable',
  'connect_failed',
  'connection_lost',
  'dns_failed',
  'protocol_error',
  'service_unavailable',
  'throttled',
  'timed_out',
  'tls_failed',
  'transport_closed',
] as const

/** The message was handed over and its answer never understood. */
export const UNKNOWN_CODES = ['aborted', 'connection_lost', 'protocol_error', 'timed_out'] as const

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

/** A server's answer. `reply` is safe to store and log: bounded, well-formed, without control characters. */
export type ServerReply = {
  readonly reply?: string
  /** Three digits, RFC 5321 section 4.2. */
  readonly smtpCode?: number
  /** RFC 3463, such as `5.1.1`. */
  readonly enhancedCode?: string
}

/** One recipient refused while others were accepted. */
export type RefusedRecipient = ServerReply & {
  readonly recipient: string
  /** False: the server said "not now", and this recipient alone may be tried again. */
  readonly permanent: boolean
  readonly code: Verdict['code']
}

export type SendOutcome =
  /** The server took responsibility for every recipient that is not in `refused`. */
  | {
      readonly kind: 'accepted'
      readonly reply: string
      /** The Message-ID the provider gave the mail instead of ours, where its reply names one (SES, Outlook). */
      readonly providerMessageId?: string
      readonly refused: readonly RefusedRecipient[]
    }
  /** No retry helps. */
  | ({ readonly kind: 'refused'; readonly code: RefusedCode } & ServerReply)
  /** A retry may help; this was a real attempt. */
  | ({ readonly kind: 'deferred'; readonly code: DeferredCode } & ServerReply)
  /** Nothing was accepted and the message is not at fault: costs no attempt. */
  | { readonly kind: 'unreachable'; readonly code: UnreachableCode; readonly reason: string }
  /** The message was handed over and the answer never came: it may have been accepted. */
  | { readonly kind: 'unknown'; readonly code: UnknownCode; readonly reason: string }

/** A way out for mail. Safe to call concurrently. */
export type Transport = {
  /**
   * Sends `raw`, a whole RFC 5322 message with CRLF line ends, to `envelope.to`. Never rejects: whatever happens is an
   * outcome. An aborted signal ends the send at once, as `unknown` when the message was already handed over.
   */
  send(envelope: Envelope, raw: Buffer, signal?: AbortSignal): Promise<SendOutcome>
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

/** Whether an address may stand on the envelope and in an address header as it is. */
export function isWireAddress(address: string): boolean {
  return address.length <= MAX_ADDRESS_CHARS && WIRE_ADDRESS.test(address)
}

/** Whether an envelope can go over the wire unchanged and has anybody to go to. */
export function isSendable({ from, to }: Envelope): boolean {
  return (from === '' || isWireAddress(from)) && to.length > 0 && to.every(isWireAddress)
}
