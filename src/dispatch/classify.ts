import type { NodemailerError } from 'nodemailer/lib/errors'
import type { RefusedRecipient, SendOutcome, ServerReply, Verdict } from './transport.ts'

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
  /** The SMTP client's code, such as `ETIMEDOUT` or `EDNS`. */
  readonly clientCode?: string | undefined
  /** The operating system's or OpenSSL's code behind it, such as `ECONNREFUSED`. */
  readonly systemCode?: string | undefined
}

type Rule = {
  readonly phases?: readonly SmtpPhase[]
  readonly codes?: readonly number[]
  /** First digit of the reply: 4 is "not now", 5 is "never" (RFC 5321 section 4.2.1). */
  readonly severity?: 4 | 5
  /** Subject and detail of the enhanced code, or the subject alone (RFC 3463 section 3). */
  readonly details?: readonly string[]
  readonly verdict: Verdict
}

/** The first rule that matches a negative reply decides. RFC 5321 section 4.3.2 lists the codes by command. */
const REPLY_RULES: readonly Rule[] = [
  // RFC 5321 section 3.8: 421 closes the session. After the content it counts as an attempt, because one message that
  // always makes the server give up must not be tried for ever.
  { codes: [421], phases: ['content'], verdict: { kind: 'deferred', code: 'service_unavailable' } },
  { codes: [421], verdict: { kind: 'unreachable', code: 'service_unavailable' } },
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
  // A full mailbox may be emptied, whichever of 4.2.2 and 5.2.2 the server chose.
  { details: ['2.2'], verdict: { kind: 'deferred', code: 'mailbox_full' } },
  { severity: 5, details: ['2.3', '3.4'], verdict: { kind: 'refused', code: 'message_too_large' } },
  // RFC 5321 section 4.5.3.1.10: old servers say 552 to a recipient too many, and it is to be read as temporary.
  { codes: [552], phases: ['rcpt'], verdict: { kind: 'deferred', code: 'too_many_recipients' } },
  { codes: [552], verdict: { kind: 'refused', code: 'message_too_large' } },
  // RFC 3463 section 3.2, and 5.1.10 from RFC 7505: no such mailbox or domain, or it takes no mail.
  {
    severity: 5,
    details: ['1.1', '1.2', '1.3', '1.6', '1.10'],
    verdict: { kind: 'refused', code: 'bad_recipient' },
  },
  { severity: 5, details: ['1.7', '1.8'], verdict: { kind: 'refused', code: 'sender_refused' } },
  { severity: 5, details: ['6'], verdict: { kind: 'refused', code: 'content_refused' } },
  // Policy is about us, our address or our content: it must never suppress the recipient.
  { severity: 5, details: ['7'], verdict: { kind: 'refused', code: 'policy_refused' } },
  { codes: [501, 550, 551, 553, 556], phases: ['rcpt'], verdict: { kind: 'refused', code: 'bad_recipient' } },
  { severity: 5, phases: ['mail'], verdict: { kind: 'refused', code: 'sender_refused' } },
  { severity: 5, phases: ['content'], verdict: { kind: 'refused', code: 'content_refused' } },
  { severity: 5, verdict: { kind: 'refused', code: 'smtp_refused' } },
  { codes: [452], verdict: { kind: 'deferred', code: 'server_out_of_space' } },
  { severity: 4, verdict: { kind: 'deferred', code: 'smtp_deferred' } },
]

/** OpenSSL's and Node's names for a handshake or certificate that failed; system errors are `E` and capitals only. */
const TLS_FAULT = /^(?:ERR_SSL_|ERR_TLS_|EPROTO$|UNABLE_TO_|HOSTNAME_MISMATCH$)|CERT|CRL|CHAIN/

/** What a fault in the dialogue means for the message. Total: every input has a verdict. */
export function classify(fault: SmtpFault): Verdict {
  const severity = severityOf(fault.smtpCode)
  if (severity === undefined) return classifyWithoutReply(fault)
  const rule = REPLY_RULES.find((candidate) => matches(candidate, fault, severity))
  return rule?.verdict ?? { kind: 'deferred', code: 'smtp_deferred' }
}

function severityOf(smtpCode: number | undefined): 4 | 5 | undefined {
  const digit = Math.floor((smtpCode ?? 0) / 100)
  return digit === 4 || digit === 5 ? digit : undefined
}

function matches(rule: Rule, fault: SmtpFault, severity: 4 | 5): boolean {
  if (rule.phases !== undefined && !rule.phases.includes(fault.phase)) return false
  if (rule.codes !== undefined && !rule.codes.includes(fault.smtpCode ?? 0)) return false
  if (rule.severity !== undefined && rule.severity !== severity) return false
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
export function outcomeOf(phase: SmtpPhase, error: NodemailerError): SendOutcome {
  const answer = parseReply(error.response ?? '')
  const verdict = classifyError(phase, error)
  if (verdict.kind === 'refused' || verdict.kind === 'deferred') return { ...verdict, ...answer }
  return { ...verdict, reason: answer.reply ?? parseReply(error.message).reply ?? verdict.code }
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
  const { smtpCode, enhancedCode } = parseReply(error.response ?? '')
  return classify({ phase, smtpCode, enhancedCode, clientCode: error.code, systemCode: error.originalCode })
}
