import { MAX_WAIT_MS } from './http/rate.ts'

/** What the sentence of a negative reply speaks of, where its code alone leaves that open. */
export type ReplyTopic =
  | 'session_limit'
  | 'recipients'
  | 'greylisting'
  | 'throttling'
  | 'mailbox_full'
  | 'sender'
  | 'policy'

/**
 * Words are read because many servers send no enhanced code, and then `550` is both "no
 * such user" and "we do not like you". They can clear a recipient and never blame one.
 */
const TOPICS: Readonly<Record<ReplyTopic, RegExp>> = {
  session_limit: /\b(?:in|on|per|for) (?:this |the same |one |a )?(?:smtp )?(?:connection|session)\b/i,
  recipients: /too many recipients|maximum (?:number of )?recipients/i,
  greylisting: /gr[ae]y[- _]?list/i,
  throttling: new RegExp(
    [
      'throttl',
      String.raw`\brate[- _]?(?:limit|control)`,
      String.raw`\b(?:connection|delivery|e?-?mail|messages?|send|sending|submission) (?:rate|quota|limit)\b`,
      String.raw`\b(?:daily|hourly|monthly)\b[^.]{0,40}\b(?:limit|quota)`,
      String.raw`\b(?:limit|quota)\b[^.]{0,40}\b(?:per|each|an?) (?:second|minute|hour|day)\b`,
      String.raw`too many (?:\w+ )?(?:connections|e?-?mails|logins?|messages|requests|sessions)`,
      'too (?:fast|quickly|much mail)',
      String.raw`\bslow(?:ing)? down`,
      'unusual(?:ly high)? rate|unexpected volume',
    ].join('|'),
    'i',
  ),
  mailbox_full: /\b(?:mailbox|inbox)\b[^.]{0,40}\b(?:full|exceed)|over ?quota|quota exceeded/i,
  sender:
    /\bsender\b[^;]{0,60}\b(?:blocked|denied|invalid|not|refused|rejected|unknown|verif)|verify sender/i,
  policy: new RegExp(
    [
      String.raw`\bpolic(?:y|ies)\b|\bprohibit`,
      String.raw`\bspam|\bunsolicited|\babuse|\breputation|\bbanned`,
      String.raw`\b(?:block|black|deny)[- ]?list|\bblocked\b|\blisted (?:at|by|in|on)\b|\b(?:dns|uri)?[rb]bl\b`,
      String.raw`\b(?:spf|dkim|dmarc|ptr|rdns|fcrdns)\b|reverse (?:dns|hostname|lookup)`,
      String.raw`\brelay|\brcpthosts\b|authenticat|(?:access|permission) denied|not (?:allowed|authori[sz]ed|permitted)`,
      'client host rejected|cannot find your',
    ].join('|'),
    'i',
  ),
}

/** One reply may speak of several: "greylisted by policy". */
export function speaksOf(reply: string, topics: readonly ReplyTopic[]): boolean {
  return topics.some((topic) => TOPICS[topic].test(reply))
}

/** Only after a word that asks to wait: "100 messages in 60 seconds" is a limit, not a delay. */
const ASKED = String.raw`(?:again|back|defer\w*|gr[ae]y[- ]?list\w*|later|retry|wait)\b(?:[^.]|\.(?!\s)){0,60}?`
const IN_UNITS = new RegExp(
  String.raw`${ASKED}\b(\d{1,6}) ?(h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)\b`,
  'i',
)
/** As milter-greylist says it: "please come back in 00:04:42". */
const ON_THE_CLOCK = new RegExp(String.raw`${ASKED}\b(\d{1,3}):([0-5]\d):([0-5]\d)\b`, 'i')
const SECONDS_IN: Readonly<Record<string, number>> = { h: 3_600, m: 60, s: 1 }

/** The delay a reply names, such as "try again in 5 minutes", in milliseconds up to an hour; undefined when none. */
export function namedDelayMs(reply: string): number | undefined {
  const seconds = secondsOnTheClock(reply) ?? secondsInUnits(reply) ?? 0
  return seconds === 0 ? undefined : Math.min(seconds * 1_000, MAX_WAIT_MS)
}

function secondsOnTheClock(reply: string): number | undefined {
  const [match, hours, minutes, seconds] = ON_THE_CLOCK.exec(reply) ?? []
  return match === undefined ? undefined : Number(hours) * 3_600 + Number(minutes) * 60 + Number(seconds)
}

function secondsInUnits(reply: string): number | undefined {
  const [match, number, unit = ''] = IN_UNITS.exec(reply) ?? []
  return match === undefined ? undefined : Number(number) * (SECONDS_IN[unit.charAt(0).toLowerCase()] ?? 0)
}
