import type { FeedbackEvent } from './event.ts'

type Bounce = NonNullable<FeedbackEvent['bounce']>

/** RFC 3463 section 2; the digits behind must not be the rest of an IP address. */
const ENHANCED_CODE = /(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?!\.?\d)/
/** 4.7.x and 5.7.x: "security or policy status" (RFC 3463 section 3.8). */
const POLICY_CODE = /^[45]\.7\./
/** 5.2.2: the mailbox is full, and may be empty tomorrow (section 3.3). */
const MAILBOX_FULL = /^5\.2\.2$/
const POLICY_TEXT =
  /\b(?:rate[ -]?limit\w*|limit exceeded|exceeded (?:the )?(?:rate|limit)|too many|too fast|throttl\w*|polic(?:y|ies)|block(?:ed|list\w*)|black-?list\w*|deny-?list\w*|grey-?list\w*|spam\w*|reputation|rbl|dnsbl|spf|dkim|dmarc|unsolicited|suspicious)\b/i
/** Addresses, hosts and links may hold any of those words, and say nothing. */
const NAMES = /\S*(?:@|:\/\/|\w\.[a-z]{2,})\S*/gi

/**
 * A provider's verdict on a bounce, made careful: what speaks of the sender (policy, reputation, rate) and not of the
 * address is `undetermined`, and what may pass is `soft`, however sure the provider is. Only a hard bounce may cost
 * somebody their mail.
 */
export function bounceOf(
  claimed: Bounce['kind'],
  code: string | undefined,
  reason: string | undefined,
): Bounce {
  const enhanced = enhancedCode(code) ?? enhancedCode(reason)
  return {
    kind: careful(claimed, enhanced, reason),
    ...(enhanced === undefined ? {} : { code: enhanced }),
    ...(reason === undefined ? {} : { reason }),
  }
}

function careful(
  claimed: Bounce['kind'],
  code: string | undefined,
  reason: string | undefined,
): Bounce['kind'] {
  const isPolicy =
    (code !== undefined && POLICY_CODE.test(code)) ||
    (reason !== undefined && POLICY_TEXT.test(reason.replace(NAMES, ' ')))
  if (isPolicy) return 'undetermined'
  const mayPass = code !== undefined && (code.startsWith('4.') || MAILBOX_FULL.test(code))
  return claimed === 'hard' && mayPass ? 'soft' : claimed
}

/** The first enhanced status code of a text such as `smtp; 550 5.1.1 user unknown`. */
export function enhancedCode(text: string | undefined): string | undefined {
  return ENHANCED_CODE.exec(text ?? '')?.[1]
}
