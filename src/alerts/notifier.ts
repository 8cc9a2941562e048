import { providerForAlerts } from '../alert-mail.ts'
import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import * as queries from './queries.ts'
import { postAlerts, type RequestDeps } from './request.ts'
import { genericBodyOf, headlineOf, slackBodyOf, textOf } from './words.ts'

/**
 * Tells targets of alerts: Slack and programs by a request, people by mail through our own queue.
 *
 * Takes in: rows of mail.alert_delivery, each one message to one target, written with what fired. Leaves behind: the
 * message told, or waiting for its next attempt, or given up after a day. Each target has one message under way at a
 * time, and none waits for another's answer: one that hangs holds up nobody.
 *
 * If the process dies between the claim and the end: the lease ends after a minute, and the next leader tells it again,
 * under the same webhook-id. Mail is handed in by the transaction that ends its delivery: once.
 */
const GIVE_UP_AFTER_MS = 86_400_000
const DELAYS_MS = [5_000, 15_000, 60_000, 300_000] as const
const LAST_DELAY_MS = 900_000

const SECRET = /^whsec_[A-Za-z0-9+/]{22,}={0,2}$/

export type NotifierDeps = RequestDeps & {
  readonly db: Database
  readonly log: Log
  /** For the variables that targets name. */
  readonly environment: Readonly<Record<string, string | undefined>>
}

export class Notifier {
  readonly #deps: NotifierDeps
  readonly #abort = new AbortController()
  readonly #underWay = new Set<Promise<void>>()

  constructor(deps: NotifierDeps) {
    this.#deps = deps
  }

  /** Begins to tell what is due, and does not wait for the answers. */
  async look(): Promise<void> {
    for (const delivery of await queries.claimDeliveries(this.#deps.db)) {
      const telling = this.#deliver(delivery)
        .catch((error: unknown) => {
          this.#deps.log.warn(
            { target: delivery.name, error },
            'what became of telling an alert could not be written',
          )
        })
        .finally(() => this.#underWay.delete(telling))
      this.#underWay.add(telling)
    }
  }

  /** Resolves when nothing is under way any more; what is when `limit` fires is cut off. */
  async stop(limit: AbortSignal): Promise<void> {
    limit.addEventListener('abort', () => this.#abort.abort())
    if (limit.aborted) this.#abort.abort()
    await Promise.all(this.#underWay)
  }

  /** Tells one target of an alert that is none; why that failed, or null. Undefined: there is no such target. */
  async test(targetId: string): Promise<string | null | undefined> {
    const { db, now } = this.#deps
    const target = await queries.findTarget(db, targetId)
    if (target === undefined) return undefined
    const at = new Date(now())
    const alerts = [testAlertOf(targetId, at)]
    return (await this.#tell(target, { id: `test-${at.getTime()}`, alerts, at })) ?? null
  }

  async #deliver(delivery: queries.Delivery): Promise<void> {
    const { db, log, now } = this.#deps
    const { id, name, alerts, tries } = delivery
    reached('alert.claimed')
    const error = await this.#tell(delivery, { id, alerts, at: delivery.created_at, delivery })
    if (error === undefined) {
      reached('alert.told')
      await queries.storeSent(db, delivery)
      reached('alert.noted')
      log.info({ target: name, alerts: alerts.length, tries }, 'a target was told of alerts')
      return
    }
    const isOver = now() - delivery.created_at.getTime() >= GIVE_UP_AFTER_MS
    await queries.storeFailed(db, delivery, error, isOver ? null : (DELAYS_MS[tries - 1] ?? LAST_DELAY_MS))
    const fields = { target: name, alerts: alerts.length, tries, reason: error }
    if (isOver) log.error(fields, 'a target could not be told of alerts for a day; this message is given up')
    else log[tries === 1 ? 'warn' : 'debug'](fields, 'a target could not be told of alerts, will try again')
  }

  /** Undefined when it is done, otherwise why not. */
  async #tell(target: queries.Target, message: Message): Promise<string | undefined> {
    try {
      return await (target.kind === 'email' ? this.#mail(target, message) : this.#post(target, message))
    } catch (error) {
      this.#deps.log.error({ target: target.name, error }, 'telling an alert failed in an unforeseen way')
      return 'unforeseen; the log has the details'
    }
  }

  async #post(target: queries.Target, { id, alerts, at }: Message): Promise<string | undefined> {
    const { environment } = this.#deps
    const url = target.url ?? environment[target.url_env ?? '']
    if (url === undefined || url === '') return unset(target.url_env)
    const secret = target.secret_env === null ? undefined : environment[target.secret_env]
    if (target.secret_env !== null && secret === undefined) return unset(target.secret_env)
    if (secret !== undefined && !SECRET.test(secret)) {
      return `the variable ${target.secret_env} holds no secret like whsec_ and base64`
    }
    const body = target.kind === 'slack' ? slackBodyOf(alerts) : genericBodyOf(alerts, at)
    return postAlerts(this.#deps, { id, url, body, secret }, this.#abort.signal)
  }

  async #mail(
    { sender, address }: queries.Target,
    { alerts, delivery }: Message,
  ): Promise<string | undefined> {
    const { db } = this.#deps
    if ((await providerForAlerts(db)) === undefined) {
      return 'mail cannot go: no provider on the route of stream alerts is well; add another one to it'
    }
    const text = `${textOf(alerts)}\n\nEverything that is wrong now: select * from mail.alerts_now;\n`
    const subject = `[Sluice] ${headlineOf(alerts)}`
    await queries.handInMail(db, { from: sender ?? '', to: address ?? '', subject, text }, delivery)
    return undefined
  }
}

type Message = {
  readonly id: string
  readonly alerts: readonly queries.ToldAlert[]
  readonly at: Date
  /** Unset of a test. */
  readonly delivery?: queries.Delivery
}

function unset(variable: string | null): string {
  return `the variable ${variable} is not set in the environment of the process that tells it`
}

function testAlertOf(id: string, at: Date): queries.ToldAlert {
  const moment = at.toISOString()
  return {
    ...{ id, event: 'fired', rule: 'test', subject: '', severity: 'warning', stream: null, provider: null },
    what: 'This is a test: alerts arrive here.',
    ...{ value: 0, worst_value: 0, threshold: 0, since: moment, fired_at: moment, resolved_at: null },
    ...{ command: 'select * from mail.alerts_now;', page: '/' },
  }
}
