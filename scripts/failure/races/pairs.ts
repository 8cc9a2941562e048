import * as sides from './sides.ts'

/** Where the message stands when the race begins. */
export type Start = 'accepted' | 'scheduled' | 'queued' | 'sending' | 'unknown' | 'dead'

export type Pair = {
  readonly name: string
  readonly start: Start
  readonly A: sides.MakeSide
  readonly B: sides.MakeSide
  /** What each answers and where the message stands then: everything that may come of it, in any order. */
  readonly allowed: readonly string[]
}

export const PAIRS: readonly Pair[] = [
  pair('claim/claim', 'queued', sides.claim, sides.claim, [
    'claimed / nothing → sending',
    'nothing / claimed → sending',
  ]),
  pair('cancel/claim', 'queued', sides.cancel, sides.claim, [
    'canceled / nothing → canceled',
    'sending / claimed → sending',
  ]),
  pair('cancel/process', 'accepted', sides.cancel, sides.process, [
    'canceled / nothing → canceled',
    'canceled / queued → canceled',
  ]),
  pair('process/process', 'accepted', sides.process, sides.process, [
    'queued / nothing → queued',
    'nothing / queued → queued',
  ]),
  pair('reschedule/release', 'scheduled', sides.reschedule, sides.releaseDue, [
    'scheduled / nothing → scheduled',
    'scheduled / released → scheduled',
  ]),
  pair('release/release', 'scheduled', sides.releaseDue, sides.releaseDue, [
    'released / nothing → accepted',
    'nothing / released → accepted',
  ]),
  pair('cancel/release', 'scheduled', sides.cancel, sides.releaseDue, [
    'canceled / nothing → canceled',
    'canceled / released → canceled',
  ]),
  pair('reschedule/claim', 'queued', sides.reschedule, sides.claim, [
    'scheduled / nothing → scheduled',
    'sending / claimed → sending',
  ]),
  pair('reschedule/process', 'accepted', sides.reschedule, sides.process, [
    'scheduled / nothing → scheduled',
    'scheduled / queued → scheduled',
  ]),
  pair('retry/retry', 'dead', sides.retry, sides.retry, [
    'true / false → accepted',
    'false / true → accepted',
  ]),
  pair('retry/discard', 'dead', sides.retry, sides.discard, [
    'true / false → accepted',
    'false / true → canceled',
  ]),
  pair('retry/webhook', 'dead', sides.retry, sides.webhook, [
    'true / told → accepted',
    'false / told → delivered',
  ]),
  pair('settle sent/rescue', 'sending', sides.settle('sent'), sides.rescue, [
    'settled / nothing → sent',
    'too late / rescued → queued',
  ]),
  pair('settle deferred/rescue', 'sending', sides.settle('deferred'), sides.rescue, [
    'settled / nothing → deferred',
    'too late / rescued → queued',
  ]),
  pair('settle/settle', 'sending', sides.settle('sent'), sides.settle('sent'), [
    'settled / too late → sent',
    'too late / settled → sent',
  ]),
  pair('claim/rescue', 'queued', sides.claim, sides.rescue, [
    'claimed / rescued → queued',
    'not registered / nothing → queued',
  ]),
  pair('rescue/rescue', 'sending', sides.rescue, sides.rescue, [
    'rescued / nothing → queued',
    'nothing / rescued → queued',
  ]),
  pair('cancel/rescue', 'sending', sides.cancel, sides.rescue, [
    'sending / rescued → queued',
    'canceled / rescued → canceled',
  ]),
  pair('settle/cancel', 'sending', sides.settle('deferred'), sides.cancel, [
    'settled / canceled → canceled',
    'settled / sending → deferred',
  ]),
  pair('settle/webhook', 'sending', sides.settle('deferred'), sides.webhook, [
    'settled / told → delivered',
    'settled / told → deferred',
  ]),
  pair('settle_unknown sent/webhook', 'unknown', sides.settleSent, sides.webhook, [
    'true / told → delivered',
    'false / told → delivered',
  ]),
  pair('settle_unknown retry/webhook', 'unknown', sides.settleRetry, sides.webhook, [
    'true / told → accepted',
    'false / told → delivered',
  ]),
  pair('settle_unknown sent/retry', 'unknown', sides.settleSent, sides.settleRetry, [
    'true / false → sent',
    'false / true → accepted',
  ]),
  pair('pause/claim', 'queued', sides.pauseStream, sides.claim, ['paused / claimed → sending']),
  pair('route change/claim', 'queued', sides.changeRoute, sides.claim, ['routed / claimed → sending']),
  pair('route change/process', 'accepted', sides.changeRoute, sides.process, ['routed / queued → queued']),
  pair('erase/claim', 'queued', sides.erase, sides.claim, [
    'erased / nothing → gone',
    'erased / claimed → gone',
  ]),
  pair('erase/settle', 'sending', sides.erase, sides.settle('sent'), [
    'erased / too late → gone',
    'erased / settled → gone',
  ]),
  pair('erase/process', 'accepted', sides.erase, sides.process, [
    'erased / nothing → gone',
    'erased / queued → gone',
  ]),
  pair('erase/erase', 'queued', sides.erase, sides.erase, ['erased / erased → gone']),
  pair('suppress/claim', 'queued', sides.suppress, sides.claim, [
    'listed / nothing → suppressed',
    'listed / claimed → sending',
  ]),
  pair('retention/settle', 'sending', sides.retain, sides.settle('sent'), ['nothing / settled → sent']),
  pair('two senders with one key', 'queued', sides.sendWithKey('a'), sides.sendWithKey('a'), [
    'given / given → queued',
  ]),
]

function pair(
  name: string,
  start: Start,
  A: sides.MakeSide,
  B: sides.MakeSide,
  allowed: readonly string[],
): Pair {
  return { name, start, A, B, allowed }
}
