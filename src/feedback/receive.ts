import type { Log } from '../log.ts'
import type { WebhookKind } from '../webhook-kinds.ts'
import type { PinnedFetch } from './pinned-fetch.ts'
import { Refusals } from './refusals.ts'
import { readSecrets, type Source, Sources } from './source.ts'
import { FeedbackStore, type StoreDeps } from './store.ts'
import { provedMail, verifyCredentials } from './verify/credentials.ts'
import { verifyMailgun } from './verify/mailgun.ts'
import { verifyPostmark } from './verify/postmark.ts'
import type { Delivery, Verdict } from './verify/proof.ts'
import { verifySendGrid } from './verify/sendgrid.ts'
import { confirmSubscription, verifySns } from './verify/sns.ts'
import { SnsCertificates } from './verify/sns-certificates.ts'
import { verifyStandardWebhook } from './verify/standard-webhooks.ts'

/**
 * The door for what providers tell us.
 *
 * Takes in: one request to a webhook source. Leaves behind: its raw bytes in `mail.feedback` and a job of the queue
 * `feedback`, in one transaction, if its proof is right; otherwise a count.
 *
 * If the process dies before the commit, the provider was told nothing and comes again; after it, the provider may
 * come again as well, and the repeat is known by its key.
 */

export type ReceiverDeps = StoreDeps & {
  readonly log: Log
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly fetch: PinnedFetch
  readonly now: () => number
}

/** `put_off`: nothing is wrong with it, and it could not be checked or stored now. */
export type Receipt = 'taken' | 'no_such_endpoint' | 'refused' | 'put_off'

export class Receiver {
  readonly #deps: ReceiverDeps
  readonly #sources: Sources
  readonly #certificates: SnsCertificates
  readonly #store: FeedbackStore
  readonly #refusals: Refusals

  constructor(deps: ReceiverDeps) {
    this.#deps = deps
    this.#sources = new Sources(deps.db, deps.now)
    this.#certificates = new SnsCertificates(deps.fetch)
    this.#store = new FeedbackStore(deps)
    this.#refusals = new Refusals(deps.db, deps.log)
  }

  /** Rejects only when the database cannot be reached. */
  async receive(kind: WebhookKind, endpoint: string, delivery: Delivery): Promise<Receipt> {
    const source = await this.#sources.find(endpoint)
    if (source === undefined || source.kind !== kind) return 'no_such_endpoint'
    const verdict = await this.#verify(source, delivery)
    switch (verdict.kind) {
      case 'proved':
        return this.#take({ endpoint, kind, eventKey: verdict.eventKey, body: delivery.body })
      case 'subscription':
        return this.#subscribe(endpoint, verdict)
      case 'refused':
        this.#refusals.count(endpoint, verdict.reason)
        return 'refused'
      case 'unchecked':
        this.#refusals.count(endpoint, verdict.reason)
        return 'put_off'
    }
  }

  /** Writes what was counted last. */
  async finish(): Promise<void> {
    await this.#refusals.write()
  }

  #verify(source: Source, delivery: Delivery): Verdict | Promise<Verdict> {
    const nowMs = this.#deps.now()
    if (source.kind === 'ses') {
      return verifySns({ certificates: this.#certificates }, delivery, source.topicArns, nowMs)
    }
    if (source.kind === 'dsn' && delivery.isVouchedFor === true) return provedMail(delivery.body)
    const secrets = readSecrets(source, this.#deps.environment)
    if (secrets.length === 0 && source.secretsEnv !== null)
      return { kind: 'unchecked', reason: 'secret_not_set' }
    return VERIFIERS[source.kind](delivery, secrets, nowMs)
  }

  async #take(delivery: Parameters<FeedbackStore['add']>[0]): Promise<Receipt> {
    return (await this.#store.add(delivery)) ? 'taken' : 'put_off'
  }

  async #subscribe(endpoint: string, wish: { topicArn: string; token: string }): Promise<Receipt> {
    const { fetch, log } = this.#deps
    if (await confirmSubscription(fetch, wish)) {
      log.info({ endpoint, topic: wish.topicArn }, 'subscription to the SNS topic confirmed')
      return 'taken'
    }
    this.#refusals.count(endpoint, 'confirmation_failed')
    return 'put_off'
  }
}

const VERIFIERS: Readonly<
  Record<
    Exclude<WebhookKind, 'ses'>,
    (delivery: Delivery, secrets: readonly string[], nowMs: number) => Verdict
  >
> = {
  sendgrid: verifySendGrid,
  mailgun: verifyMailgun,
  postmark: verifyPostmark,
  resend: verifyStandardWebhook,
  generic: verifyStandardWebhook,
  dsn: verifyCredentials,
}
