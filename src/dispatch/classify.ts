import type { NodemailerError } from 'nodemailer/lib/errors'
import { namedDelayMs, type ReplyTopic, speaksOf } from './reply-words.ts'
import type { ProviderRate, RefusedRecipient, SendOutcome, ServerReply, Verdict } from './transport.ts'

/**
 * How far the dialogue had come. `content` begins when the message is written, so from then on a fault without an
 * answer leaves it unknown whether the server has the message.
 */
export const SMTP_PHASES = [
  'connect',
  'greeting',
  'hello',
  'tls',
  'auth',
  'mail',
  'rcpt',
  'data',
  'content',
] as const
export type SmtpPhase = (typeof SMTP_PHASES)[number]

export type SmtpFault = {
  readonly phase: SmtpPhase
  readonly smtpCode?: number | undefined
  readonly enhancedCode?: string | undefined
  /** The server's words, which decide only where its codes leave it open. */
  readonly reply?: string | undefined
  /** The SMTP client's code, such as `ETIMEDOUT` or `EDNS`. */
  readonly clientCode?: string | undefined
  /** The operating system's or OpenSSL's code behind it, such as `ECONNREFUSED`. */
  readonly systemCode?: string | undefined
}

type Rule = {
  readonly phases?: readonly SmtpPhase[]
  readonly codes?: readonly number[]
  /** Subject and detail of the enhanced code, or the subject alone (RFC 3463 section 3). */
  readonly details?: readonly string[]
  readonly topics?: readonly ReplyTopic[]
  readonly verdict: Verdict
}

/** Phases in which a reply speaks of this message, its sender or a recipient. */
const ENVELOPE: readonly SmtpPhase[] = ['mail', 'rcpt', 'data']
const TRANSACTION: readonly SmtpPhase[] = [...ENVELOPE, 'content']

/** "Not now": what is about one mailbox or this message costs an attempt, what is about all we send costs none. */
const TEMPORARY_RULES: readonly Rule[] = [
  // Grey-listing is about one sender and recipient, so it must not hold up the others, and it ends by itself. It costs an
  // attempt, because nothing else bounds a relay that says so for ever; the retry waits at least as long as it names.
  { phases: TRANSACTION, topics: ['greylisting'], verdict: { kind: 'deferred', code: 'smtp_deferred' } },
  // A full mailbox may be emptied. X.2.Z is the state of one mailbox, also when that is said to get too much mail.
  { codes: [450, 451, 452], details: ['2.2'], verdict: { kind: 'deferred', code: 'mailbox_full' } },
  {
    codes: [450, 451, 452],
    phases: TRANSACTION,
    details: ['2'],
    verdict: { kind: 'deferred', code: 'smtp_deferred' },
  },
  // A server that ends a session after so many messages takes the next one in a new session at once.
  {
    codes: [421],
    phases: ENVELOPE,
    topics: ['session_limit'],
    verdict: { kind: 'unreachable', code: 'service_unavailable' },
  },
  // Gmail's (4.7.28) and Outlook's (4.7.500, 4.7.650) codes for too much mail from us.
  { details: ['7.28', '7.500', '7.650'], verdict: { kind: 'unreachable', code: 'throttled' } },
  { topics: ['throttling'], verdict: { kind: 'unreachable', code: 'throttled' } },
  // A policy judges this sender or our host: waiting for ever would hide it, so it costs an attempt.
  {
    codes: [450, 451],
    phases: TRANSACTION,
    topics: ['policy', 'sender'],
    verdict: { kind: 'deferred', code: 'smtp_deferred' },
  },
  // Security and policy status (RFC 3463 section 3.8) is how most servers slow a sender down. Not after the content: one
  // message that a scanner never passes would hold up all the others.
  { phases: ENVELOPE, details: ['7'], verdict: { kind: 'unreachable', code: 'throttled' } },
  // RFC 5321 section 3.8: 421 closes the session. After the content it counts as an attempt, because one message that
  // always makes the server give up must not be tried for ever.
  { codes: [421], phases: ['content'], verdict: { kind: 'deferred', code: 'service_unavailable' } },
  { codes: [421], verdict: { kind: 'unreachable', code: 'service_unavailable' } },
]

const SETTINGS_RULES: readonly Rule[] = [
  { phases: ['tls'], verdict: { kind: 'unreachable', code: 'tls_failed' } },
  { phases: ['auth'], verdict: { kind: 'unreachable', code: 'auth_failed' } },
  // RFC 7504 and RFC 5321 section 3.1: a greeting of 521 or 554 means that no mail is taken here.
  { phases: ['connect', 'greeting', 'hello'], verdict: { kind: 'unreachable', code: 'service_unavailable' } },
  // RFC 4954 section 6: the session lacks authentication or encryption, which is a fault of our settings.
  { codes: [530, 534, 535, 538], verdict: { kind: 'unreachable', code: 'auth_failed' } },
  // Amazon SES answers "454 Throttling failure" after the content; it speaks of the account, not of the message.
  { codes: [454], verdict: { kind: 'unreachable', code: 'throttled' } },
  // Bad sequence of commands: the session went wrong, the message was not judged.
  { codes: [503], verdict: { kind: 'deferred', code: 'session_fault' } },
  { details: ['5.3'], verdict: { kind: 'deferred', code: 'too_many_recipients' } },
  { topics: ['recipients'], verdict: { kind: 'deferred', code: 'too_many_recipients' } },
  { details: ['2.2'], verdict: { kind: 'deferred', code: 'mailbox_full' } },
]

/**
 * "Never", and `bad_recipient` only when it is certain, because it may keep mail from an address for good. A 5yz that
 * complains about our rate is final too: to pause a provider at a word in a refusal of one message would let that message
 * hold up all the others. It can be retried as a dead letter.
 */
const FINAL_RULES: readonly Rule[] = [
  { details: ['2.3', '3.4'], verdict: { kind: 'refused', code: 'message_too_large' } },
  // RFC 3463 section 3.2, and 5.1.10 from RFC 7505: no such mailbox or domain, or it takes no mail.
  {
    details: ['1.1', '1.2', '1.3', '1.6', '1.10'],
    verdict: { kind: 'refused', code: 'bad_recipient' },
  },
  { details: ['1.7', '1.8'], verdict: { kind: 'refused', code: 'sender_refused' } },
  { details: ['6'], verdict: { kind: 'refused', code: 'content_refused' } },
  // Policy is about us, our address or our content: it must never suppress the recipient.
  { details: ['7'], verdict: { kind: 'refused', code: 'policy_refused' } },
  { codes: [552], topics: ['mailbox_full'], verdict: { kind: 'deferred', code: 'mailbox_full' } },
  // RFC 5321 section 4.5.3.1.10: old servers say 552 to a recipient too many, and it is to be read as temporary.
  { codes: [552], phases: ['rcpt'], verdict: { kind: 'deferred', code: 'too_many_recipients' } },
  { codes: [552], verdict: { kind: 'refused', code: 'message_too_large' } },
  {
    phases: TRANSACTION,
    topics: ['greylisting', 'throttling'],
    verdict: { kind: 'refused', code: 'policy_refused' },
  },
  {
    phases: ['rcpt', 'content'],
    topics: ['mailbox_full'],
    verdict: { kind: 'deferred', code: 'mailbox_full' },
  },
  // Servers put off what they have against the sender until a recipient is named.
  { phases: ['mail', 'rcpt'], topics: ['sender'], verdict: { kind: 'refused', code: 'sender_refused' } },
  { phases: ENVELOPE, topics: ['policy'], verdict: { kind: 'refused', code: 'policy_refused' } },
  // Mail system, routing, protocol (RFC 3463 sections 3.4 to 3.6): none of them is the address.
  { phases: ['rcpt'], details: ['3', '4', '5'], verdict: { kind: 'refused', code: 'smtp_refused' } },
  { codes: [501, 550, 551, 553, 556], phases: ['rcpt'], verdict: { kind: 'refused', code: 'bad_recipient' } },
  { phases: ['mail'], verdict: { kind: 'refused', code: 'sender_refused' } },
  { phases: ['content'], verdict: { kind: 'refused', code: 'content_refused' } },
  { verdict: { kind: 'refused', code: 'smtp_refused' } },
]

/** The first rule that matches a negative reply decides. RFC 5321 section 4.3.2 lists the codes by command. */
const RULES: Readonly<Record<4 | 5, readonly Rule[]>> = {
  4: [
    ...TEMPORARY_RULES,
    ...SETTINGS_RULES,
    { codes: [452], verdict: { kind: 'deferred', code: 'server_out_of_space' } },
    { verdict: { kind: 'deferred', code: 'smtp_deferred' } },
  ],
  5: [...SETTINGS_RULES, ...FINAL_RULES],
}

/** OpenSSL's and Node's names for a handshake or certificate that failed; system errors are `E` and capitals only. */
const TLS_FAULT = /^(?:ERR_SSL_|ERR_TLS_|EPROTO$|UNABLE_TO_|HOSTNAME_MISMATCH$)|CERT|CRL|CHAIN/

/** What a fault in the dialogue means for the message. Total: every input has a verdict. */
export function classify(fault: SmtpFault): Verdict {
  const severity = severityOf(fault.smtpCode)
  if (severity === undefined) return classifyWithoutReply(fault)
  const rule = RULES[severity].find((candidate) => matches(candidate, fault, severity))
  return rule?.verdict ?? { kind: 'deferred', code: 'smtp_deferred' }
}

/** First digit of the reply: 4 is "not now", 5 is "never" (RFC 5321 section 4.2.1). */
function severityOf(smtpCode: number | undefined): 4 | 5 | undefined {
  const digit = Math.floor((smtpCode ?? 0) / 100)
  return digit === 4 || digit === 5 ? digit : undefined
}

function matches(rule: Rule, fault: SmtpFault, severity: 4 | 5): boolean {
  if (rule.phases !== undefined && !rule.phases.includes(fault.phase)) return false
  if (rule.codes !== undefined && !rule.codes.includes(fault.smtpCode ?? 0)) return false
  if (rule.topics !== undefined && !speaksOf(fault.reply ?? '', rule.topics)) return false
  return rule.details === undefined || matchesDetail(rule.details, fault.enhancedCode, severity)
}

/** An enhanced code that contradicts its reply (`550 4.2.0`) is not believed: the reply code decides alone. */
function matchesDetail(
  details: readonly string[],
  enhancedCode: string | undefined,
  severity: 4 | 5,
): boolean {
  const [digit, subject, detail] = (enhancedCode ?? '').split('.')
  if (digit !== String(severity)) return false
  return details.includes(`${subject}.${detail}`) || details.includes(`${subject}`)
}

function classifyWithoutReply(fault: SmtpFault): Verdict {
  const code = unansweredCode(fault)
  if (fault.phase === 'content') return { kind: 'unknown', code }
  if (code === 'aborted' || code === 'timed_out') return { kind: 'unreachable', code }
  if (fault.clientCode === 'EDNS') return { kind: 'unreachable', code: 'dns_failed' }
  if (fault.clientCode === 'EAUTH') return { kind: 'unreachable', code: 'auth_failed' }
  if (fault.clientCode === 'ETLS' || fault.phase === 'tls' || TLS_FAULT.test(fault.systemCode ?? '')) {
    return { kind: 'unreachable', code: 'tls_failed' }
  }
  const unconnected = fault.phase === 'connect' && code === 'connection_lost'
  return { kind: 'unreachable', code: unconnected ? 'connect_failed' : code }
}

function unansweredCode(fault: SmtpFault): 'aborted' | 'connection_lost' | 'protocol_error' | 'timed_out' {
  if (fault.clientCode === 'EABORT') return 'aborted'
  if (fault.clientCode === 'ETIMEDOUT' || fault.systemCode === 'ETIMEDOUT') return 'timed_out'
  // Something was said, but it is no answer to what was asked: not even a number, or "go ahead" after the content.
  if (fault.smtpCode !== undefined || fault.clientCode === 'EPROTOCOL') return 'protocol_error'
  if (fault.clientCode === 'EENVELOPE' || fault.clientCode === 'EMESSAGE') return 'protocol_error'
  return 'connection_lost'
}

/** RFC 5321 section 4.2 and RFC 2034 section 4; in a reply of several lines the first one decides. */
const REPLY = /^([2-5]\d\d)(?:$|[ -]\s*(?:([245]\.\d{1,3}\.\d{1,3})(?![\d.]))?)/
/** Enough for a provider's sentence and link; a hostile reply may be far longer. */
const MAX_REPLY_CHARS = 500

/** Reads a server's answer, which may be any bytes at all. */
export function parseReply(text: string): ServerReply {
  const reply = text
    .slice(0, MAX_REPLY_CHARS)
    .toWellFormed()
    .replace(/\p{Cc}+/gu, ' ')
    .trim()
  const [, smtpCode, enhancedCode] = REPLY.exec(reply) ?? []
  return {
    ...(reply === '' ? {} : { reply }),
    ...(smtpCode === undefined ? {} : { smtpCode: Number(smtpCode) }),
    ...(enhancedCode === undefined ? {} : { enhancedCode }),
  }
}

/** The outcome of a message whose dialogue failed in `phase` with an error of the SMTP client. */
export function outcomeOf(phase: SmtpPhase, failure: NodemailerError): SendOutcome {
  const error = decisiveRefusal(failure)
  const answer = parseReply(error.response ?? '')
  const verdict = classifyError(phase, error)
  const rate = rateOf(verdict.code, answer)
  const rejected = failure.rejectedErrors?.filter(({ recipient }) => recipient !== undefined) ?? []
  const recipients = rejected.length === 0 ? {} : { recipients: rejected.map(refusedRecipient) }
  if (verdict.kind === 'refused') return { ...verdict, ...answer, ...recipients }
  if (verdict.kind === 'deferred') return { ...verdict, ...answer, ...rate, ...recipients }
  return { ...verdict, reason: answer.reply ?? parseReply(error.message).reply ?? verdict.code, ...rate }
}

/**
 * With every recipient refused: a refusal that is temporary, as trying again will tell the recipients apart; else one
 * that is no bad recipient, so that the message is called that only when all of them are.
 */
function decisiveRefusal(error: NodemailerError): NodemailerError {
  const refusals = error.rejectedErrors ?? []
  return (
    refusals.find((each) => classifyError('rcpt', each).kind !== 'refused') ??
    refusals.find((each) => classifyError('rcpt', each).code !== 'bad_recipient') ??
    error
  )
}

/** Codes that speak of the provider; a delay named with any other is about this message alone. */
const PROVIDER_CODES: readonly Verdict['code'][] = ['service_unavailable', 'server_out_of_space', 'throttled']

/** The pause a provider asked for in its reply. */
export function rateOf(code: Verdict['code'], { reply = '' }: ServerReply): { readonly rate?: ProviderRate } {
  const pauseMs = PROVIDER_CODES.includes(code) ? namedDelayMs(reply) : undefined
  return pauseMs === undefined ? {} : { rate: { pauseMs } }
}

/** What became of one recipient whose RCPT TO was refused. */
export function refusedRecipient(error: NodemailerError): RefusedRecipient {
  const { kind, code } = classifyError('rcpt', error)
  return {
    recipient: error.recipient ?? '',
    permanent: kind === 'refused',
    code,
    ...parseReply(error.response ?? ''),
  }
}

function classifyError(phase: SmtpPhase, error: NodemailerError): Verdict {
  const answer = parseReply(error.response ?? '')
  return classify({ phase, ...answer, clientCode: error.code, systemCode: error.originalCode })
}
