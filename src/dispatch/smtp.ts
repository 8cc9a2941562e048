import { parseSmtpUrl } from '../smtp-url.ts'
import { composed } from './composed.ts'
import { SmtpSession, type SmtpSettings, unreachable } from './smtp-session.ts'
import { isSendable, type Outgoing, type SendOutcome, type StillOurs, type Transport } from './transport.ts'

export type SmtpOptions = {
  readonly url: string
  /** Never exceeded, whatever the number of sends; the others wait their turn. A function is asked each time. */
  readonly maxConnections: number | (() => number)
  /** What we call ourselves in EHLO; unset: this machine's name. */
  readonly name?: string
}

/** Long enough for the gaps in a trickle of mail, well within the five minutes that servers wait (RFC 5321 4.5.3.2.7). */
const IDLE_MS = 30_000
/** Relays close long sessions with 421, and load balancers see a connection once: so change it now and then. */
const MAX_MESSAGES_PER_CONNECTION = 500

/**
 * Sends over SMTP through a pool of connections that stay open while there is mail. Never retries a message by itself,
 * but for one case: a connection kept from earlier turns out to be closed before anything of the message was sent.
 *
 * If the process dies, connections just drop: the server discards a message whose final dot it has not read, and has
 * accepted one whose dot it has. That window is the one in which a message can be sent twice.
 *
 * @throws Error when the options make no sense
 */
export function createSmtpTransport(options: SmtpOptions): Transport {
  const { name, maxConnections } = options
  if (typeof maxConnections === 'number' && (!Number.isInteger(maxConnections) || maxConnections < 1)) {
    throw new Error('`maxConnections` of an SMTP transport must be a whole number of at least 1')
  }
  if (name !== undefined && !/^[\w.:[\]-]+$/.test(name)) {
    throw new Error('`name` of an SMTP transport must be a host name or an address literal')
  }
  const settings = { target: parseSmtpUrl(options.url), name }
  return new SmtpPool(settings, typeof maxConnections === 'number' ? () => maxConnections : maxConnections)
}

type Turn = SmtpSession | 'room' | 'closed' | 'aborted'

/** Sessions in use, at rest and on their way out together never exceed `maxConnections`. */
class SmtpPool implements Transport {
  readonly #settings: SmtpSettings
  readonly #maxConnections: () => number
  readonly #waiting: ((turn: Turn) => void)[] = []
  /** The one used last is used next, so that those not needed for the load grow old and leave. */
  readonly #idle = new Map<SmtpSession, NodeJS.Timeout>()
  readonly #drained = Promise.withResolvers<void>()
  #live = 0
  #closed = false

  constructor(settings: SmtpSettings, maxConnections: () => number) {
    this.#settings = settings
    this.#maxConnections = maxConnections
  }

  async send(
    { mail, envelope }: Outgoing,
    signal?: AbortSignal,
    isStillOurs?: StillOurs,
  ): Promise<SendOutcome> {
    if (!isSendable(envelope)) return { kind: 'refused', code: 'invalid_envelope' }
    const composition = composed(mail)
    if (!composition.ok) return composition.outcome
    const payload = composition.content.toWire()
    if (payload === undefined) return { kind: 'refused', code: 'malformed_message' }
    for (;;) {
      const turn = await this.#turn(signal)
      if (turn === 'closed')
        return unreachable('transport_closed', 'the transport was closed before the send began')
      if (turn === 'aborted') return unreachable('aborted', 'the send was aborted before it began')
      const reused = turn !== 'room'
      const session = reused ? turn : new SmtpSession(this.#settings, () => this.#forget(session))
      const failure = reused ? undefined : await session.open(signal)
      const outcome = failure ?? (await session.send(envelope, payload, signal, isStillOurs))
      void this.#release(session)
      // A server ends idle sessions when it likes. Nothing of the message was sent yet, so another session may have it.
      if (!reused || !isLost(outcome)) return outcome
    }
  }

  close(): Promise<void> {
    this.#closed = true
    for (const waiter of this.#waiting.splice(0)) waiter('closed')
    for (const session of [...this.#idle.keys()]) this.#retire(session)
    if (this.#live === 0) this.#drained.resolve()
    return this.#drained.promise
  }

  async #turn(signal: AbortSignal | undefined): Promise<Turn> {
    if (this.#closed) return 'closed'
    if (signal?.aborted) return 'aborted'
    const idle = [...this.#idle.keys()].at(-1)
    if (idle !== undefined) {
      clearTimeout(this.#idle.get(idle))
      this.#idle.delete(idle)
      return idle
    }
    if (this.#live < this.#maxConnections()) {
      this.#live += 1
      return 'room'
    }
    return this.#wait(signal)
  }

  #wait(signal: AbortSignal | undefined): Promise<Turn> {
    return new Promise((resolve) => {
      const take = (turn: Turn) => {
        signal?.removeEventListener('abort', leave)
        resolve(turn)
      }
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(take), 1)
        resolve('aborted')
      }
      signal?.addEventListener('abort', leave, { once: true })
      this.#waiting.push(take)
    })
  }

  async #release(session: SmtpSession): Promise<void> {
    if (!(await session.makeReady())) return session.close()
    if (this.#closed || session.messages >= MAX_MESSAGES_PER_CONNECTION) return session.quit()
    const next = this.#waiting.shift()
    if (next !== undefined) return next(session)
    this.#idle.set(session, setTimeout(() => this.#retire(session), IDLE_MS).unref())
  }

  #retire(session: SmtpSession): void {
    clearTimeout(this.#idle.get(session))
    this.#idle.delete(session)
    session.quit()
  }

  #forget(session: SmtpSession): void {
    clearTimeout(this.#idle.get(session))
    this.#idle.delete(session)
    this.#live -= 1
    const next = this.#waiting.shift()
    if (next !== undefined) {
      this.#live += 1
      next('room')
    }
    if (this.#closed && this.#live === 0) this.#drained.resolve()
  }
}

/** Only for a fault before the content: afterwards the kind is never `unreachable` for these codes. */
function isLost(outcome: SendOutcome): boolean {
  if (outcome.kind !== 'unreachable') return false
  return outcome.code === 'connection_lost' || outcome.code === 'service_unavailable'
}
