/**
 * Every queue and its options, in one place.
 *
 * | queue | a job is | its own table because |
 * |---|---|---|
 * | `process.<stream>` | `{ids}`, a batch of message ids of one priority | a stream's backlog is not another's |
 * | `dispatch.<provider>.<stream>` | one message; the job's id is the message's | slots and pace belong to both |
 * | `feedback` | `{ids}`, a batch of `mail.feedback` | what providers tell is nobody's backlog |
 * | `webhook.<endpoint>` | one delivery; the job's id is the delivery's | (it has none, but slots of its own) |
 *
 * Jobs end by `deleteJob`: our own tables are the history, and deleting writes 40 % less WAL than
 * completing. Expiry, heartbeats and retries of pg-boss are not used: a dead worker is noticed within
 * seconds by its session lock, and a failed attempt is a new job with its own delay.
 */
const OPTIONS = {
  policy: 'standard',
  partition: true,
  // A job given back after its worker died becomes a retry; how often that may happen is decided by the
  // stage that owns it, which can say why in the dead letter.
  retryLimit: 10_000,
  retryDelay: 0,
  retentionSeconds: 365 * 86_400,
} as const

export const WEBHOOK_QUEUE_OPTIONS = { ...OPTIONS, partition: false } as const

export type QueueDefinition = { readonly name: string; readonly options: typeof OPTIONS }

export type ProcessJob = {
  readonly ids: readonly string[]
  /** Of a message whose attachments could not be fetched: how often that was tried, and what came of it last. */
  readonly fetches?: number
  readonly because?: string
}

export const FEEDBACK_QUEUE = 'feedback'

export type FeedbackJob = { readonly ids: readonly string[] }

export function processQueue(stream: string): string {
  return `process.${stream}`
}

/** The bell for messages that are more urgent than their stream, which have a processing lane of their own. */
export function urgentBell(stream: string): string {
  return `${processQueue(stream)}:urgent`
}

export function dispatchQueue(provider: string, stream: string): string {
  return `dispatch.${provider}.${stream}`
}

/** Tells one endpoint of the app; all of them share pg-boss's common table, since they come and go. */
export function webhookQueue(endpoint: string): string {
  return `webhook.${endpoint}`
}

/** pg-boss fetches the highest number first; our 0 is the most urgent of 0–9. */
export function jobPriority(priority: number): number {
  return 9 - priority
}

/** The queues that these streams and providers need. */
export function queuesFor(streams: readonly string[], providers: readonly string[]): QueueDefinition[] {
  const names = streams.flatMap((stream) => [
    processQueue(stream),
    ...providers.map((provider) => dispatchQueue(provider, stream)),
  ])
  return [...names, FEEDBACK_QUEUE].map((name) => ({ name, options: OPTIONS }))
}
