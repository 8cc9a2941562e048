import { bounceOf, enhancedCode } from '../bounce-kind.ts'
import type { FeedbackEvent } from '../event.ts'

type Kind = NonNullable<FeedbackEvent['bounce']>['kind']

/**
 * What the codes of a delivery that failed for good say (RFC 3463). Only those about the address itself are hard;
 * those about the message, the sender or nothing in particular are undetermined.
 */
const KINDS: readonly { readonly code: RegExp; readonly kind: Kind }[] = [
  // 5.1.7 and 5.1.8 are about the sender's address.
  { code: /^5\.1\.[78]$/, kind: 'undetermined' },
  { code: /^5\.1\./, kind: 'hard' },
  // 5.2.3 is about the length of the message.
  { code: /^5\.2\.3$/, kind: 'undetermined' },
  { code: /^5\.[24]\./, kind: 'soft' },
  { code: /^4\./, kind: 'soft' },
]

/**
 * The verdict on one recipient. A code in the remote server's own words is more than a status that says nothing
 * (x.0.0), and a policy in either of them is heeded.
 */
export function verdictOf(
  status: string | undefined,
  reason: string | undefined,
): NonNullable<FeedbackEvent['bounce']> {
  const codes = [enhancedCode(status), enhancedCode(reason)].filter((code) => code !== undefined)
  const code =
    codes.find((each) => /^[45]\.7\./.test(each)) ?? codes.find((each) => !each.endsWith('.0.0')) ?? codes[0]
  const kind = KINDS.find((each) => code !== undefined && each.code.test(code))?.kind ?? 'undetermined'
  return bounceOf(kind, code, reason)
}
