import { csvFiles, webhookBodies, webhookProofs } from './input-targets.ts'
import { bounces, mailboxes, schedules, smtpReplies, smtpUrls, unsubscribeTokens } from './mail-targets.ts'
import { routes } from './routes-target.ts'
import type { FuzzTarget } from './target.ts'

/** Everything that strangers feed, each by its name. */
export const FUZZ_TARGETS: readonly FuzzTarget[] = [
  mailboxes,
  schedules,
  smtpUrls,
  smtpReplies,
  bounces,
  webhookBodies,
  webhookProofs,
  unsubscribeTokens,
  csvFiles,
  routes,
]
