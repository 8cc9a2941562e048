import type { Readable } from 'node:stream'
import type { NodemailerError } from 'nodemailer/lib/errors'
import SMTPConnection, { type SMTPConnectionSendInfo } from 'nodemailer/lib/smtp-connection'
import { parseSmtpUrl, type SmtpTarget } from '../smtp-url.ts'
import { outcomeOf, parseReply, refusedRecipient, type SmtpPhase } from './classify.ts'
import { wireForm } from './compose.ts'
import {
  type Envelope,
  isSendable,
  type SendOutcome,
  type Transport,
  type UnreachableCode,
} from './transport.ts'

/**
 * Upper limits. Once it has its turn, a send ends within `connectMs + 2 * greetingMs + 2 * socketMs`, and within another
 * `2 * socketMs` when it first tried a connection that turned out to be lost: a lease must outlast that.
 */
export type SmtpTimeouts = {
  /** From the DNS lookup to the end of STARTTLS. */
  readonly connectMs: number
  /** For the greeting and for a STARTTLS handshake, within `connectMs`; then for EHLO, and again for authentication. */
  readonly greetingMs: number
  /** Silence of the server while a reply is due. The dialogue of one message may take twice as long in all. */
  readonly socketMs: number
}

export type SmtpOptions = {
  readonly url: string
  /** Never exceeded, whatever the number of sends; the others wait their turn. A function is asked each time. */
  readonly maxConnections: number | (() => number)
  /** What we call ourselves in EHLO; unset: this machine's name. */
  readonly name?: string
  readonly timeouts?: SmtpTimeouts
}

const DEFAULT_TIMEOUTS: SmtpTimeouts = { connectMs: 10_000, greetingMs: 10_000, socketMs: 60_000 }
/** Long enough for the gaps in a trickle of mail, well within the five minutes that servers wait (RFC 5321 4.5.3.2.7). */
const IDLE_MS = 30_000
/** Relays close long sessions with 421, and load balancers see a connection once: so change it now and then. */
const MAX_MESSAGES_PER_CONNECTION = 500
const QUIT_MS = 2_000
/** A server's whole reply; beyond that it is not SMTP. */
const MAX_REPLY_BYTES = 64 * 1024

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
  const settings = { target: parseSmtpUrl(options.url), timeouts: options.timeouts ?? DEFAULT_TIMEOUTS, name }
  return new SmtpPool(settings, typeof maxConnections === 'number' ? () => maxConnections : maxConnections)
}

type SmtpSettings = {
  readonly target: SmtpTarget
  readonly timeouts: SmtpTimeouts
  readonly name: string | undefined
}
type Result<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: NodemailerError }
type Done<T> = (error: NodemailerError | null | undefined, value: T) => void

/** One connection, for one message at a time. */
class SmtpSession {
  messages = 0
  ended = false
  readonly #settings: SmtpSettings
  readonly #connection: SMTPConnection
  #needsReset = false
  #failExchange: ((error: NodemailerError) => void) | undefined

  constructor(settings: SmtpSettings, onEnd: () => void) {
    this.#settings = settings
    this.#connection = new SMTPConnection(connectionOptions(settings))
    this.#connection.on('error', (error: NodemailerError) => this.#failExchange?.(error))
    this.#connection.once('end', () => {
      this.ended = true
      onEnd()
      // A reply that ended the session is reported right after this event; only without one was the connection lost.
      setImmediate(() => this.#failExchange?.(clientError('ECONNECTION', 'the connection was closed')))
    })
  }

  /** Connects, encrypts and authenticates; answers with the outcome of the message when that fails. */
  async open(signal: AbortSignal | undefined): Promise<SendOutcome | undefined> {
    const connection = this.#connection
    const { target, timeouts } = this.#settings
    const connected = await this.#exchange<undefined>(
      timeouts.connectMs + timeouts.greetingMs,
      signal,
      (done) => connection.connect((error) => done(error, undefined)),
    )
    if (!connected.ok) return this.#abandon(openingPhase(connection, connected.error), connected.error)
    if (target.auth === undefined) return undefined
    if (!connection.secure && target.tls !== 'none') {
      connection.close()
      return unreachable(
        'auth_needs_tls',
        'the server offers no STARTTLS, and a password is not sent without (tls=none)',
      )
    }
    if (!connection.allowsAuth) {
      connection.close()
      return unreachable(
        'auth_unavailable',
        'the server offers no authentication, but the SMTP URL has a user',
      )
    }
    const auth = { ...target.auth }
    const login = await this.#exchange<unknown>(timeouts.greetingMs, signal, (done) =>
      connection.login(auth, done),
    )
    return login.ok ? undefined : this.#abandon('auth', login.error)
  }

  async send(envelope: Envelope, payload: Buffer, signal: AbortSignal | undefined): Promise<SendOutcome> {
    let handedOver = false
    this.messages += 1
    const client = { from: envelope.from, to: [...envelope.to], size: payload.length }
    const source = payloadSource((clientStream) => {
      // The client's own stream would look at every byte again and write twice; the reply is awaited either way.
      clientStream.unpipe()
      handedOver = this.#handOver(payload)
    })
    const result = await this.#exchange<SMTPConnectionSendInfo>(
      2 * this.#settings.timeouts.socketMs,
      signal,
      (done) => this.#connection.send(client, source, done),
    )
    if (result.ok) return this.#accepted(result.value)
    const { error } = result
    const answer = parseReply(error.response ?? '')
    // 503 says that the two sides disagree on where they are: only a new session puts that right.
    this.#needsReset = (answer.smtpCode ?? 0) >= 400 && answer.smtpCode !== 503
    if (isOverSizeLimit(error)) return { kind: 'refused', code: 'message_too_large' }
    const phase = handedOver ? 'content' : sendingPhase(error)
    return this.#needsReset ? outcomeOf(phase, error) : this.#abandon(phase, error)
  }

  /** False, and nothing is written, unless the server said 354: any other would read the content as commands. */
  #handOver(payload: Buffer): boolean {
    const { _socket: socket, lastServerResponse: goAhead } = this.#connection
    if (!socket || goAhead === false || !goAhead.startsWith('354')) {
      this.#failExchange?.(clientError('EPROTOCOL', 'the answer to DATA is not 354'))
      return false
    }
    socket.write(payload)
    return true
  }

  /** Whether another message can follow. */
  async makeReady(): Promise<boolean> {
    if (!this.#needsReset || this.ended) return !this.ended
    this.#needsReset = false
    const reset = await this.#exchange<unknown>(this.#settings.timeouts.socketMs, undefined, (done) =>
      this.#connection.reset(done),
    )
    return reset.ok && !this.ended
  }

  /** Says goodbye, but does not wait for long to hear it. */
  quit(): void {
    setTimeout(() => this.close(), Math.min(QUIT_MS, this.#settings.timeouts.socketMs)).unref()
    this.#connection.quit()
  }

  close(): void {
    this.#connection.close()
  }

  #accepted(info: SMTPConnectionSendInfo): SendOutcome {
    const { reply = '', smtpCode = 0 } = parseReply(info.response)
    // The client takes any answer that begins with a 2.
    if (smtpCode < 200 || smtpCode > 299) {
      return this.#abandon(
        'content',
        clientError('EPROTOCOL', 'the answer to the message is not an SMTP reply'),
      )
    }
    const refused = (info.rejectedErrors ?? []).map(refusedRecipient)
    const id = info.serverMessageId
    return { kind: 'accepted', reply, refused, ...(id === undefined ? {} : { providerMessageId: id }) }
  }

  #abandon(phase: SmtpPhase, error: NodemailerError): SendOutcome {
    this.#connection.close()
    return outcomeOf(phase, error)
  }

  /** One step of the dialogue. Its own answer, a fault of the connection, the limit and the signal race to end it. */
  #exchange<T>(
    limitMs: number,
    signal: AbortSignal | undefined,
    start: (done: Done<T>) => void,
  ): Promise<Result<T>> {
    return new Promise((resolve) => {
      const finish = (result: Result<T>) => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', abort)
        this.#failExchange = undefined
        resolve(result)
      }
      const abort = () => finish({ ok: false, error: clientError('EABORT', 'the send was aborted') })
      const expire = () =>
        finish({ ok: false, error: clientError('ETIMEDOUT', `no answer within ${limitMs} ms`) })
      const timer = setTimeout(expire, limitMs)
      if (signal?.aborted) return abort()
      signal?.addEventListener('abort', abort, { once: true })
      this.#failExchange = (error) => finish({ ok: false, error })
      try {
        start((error, value) => finish(error ? { ok: false, error } : { ok: true, value }))
      } catch (cause) {
        // The client reports through its callback; should it throw all the same, a send still ends in an outcome.
        finish({ ok: false, error: clientError('EPROTOCOL', String(cause)) })
      }
    })
  }
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

  async send(envelope: Envelope, raw: Buffer, signal?: AbortSignal): Promise<SendOutcome> {
    if (!isSendable(envelope)) return { kind: 'refused', code: 'invalid_envelope' }
    const payload = wireForm(raw)
    if (payload === undefined) return { kind: 'refused', code: 'malformed_message' }
    for (;;) {
      const turn = await this.#turn(signal)
      if (turn === 'closed')
        return unreachable('transport_closed', 'the transport was closed before the send began')
      if (turn === 'aborted') return unreachable('aborted', 'the send was aborted before it began')
      const reused = turn !== 'room'
      const session = reused ? turn : new SmtpSession(this.#settings, () => this.#forget(session))
      const failure = reused ? undefined : await session.open(signal)
      const outcome = failure ?? (await session.send(envelope, payload, signal))
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

function connectionOptions({ target, timeouts, name }: SmtpSettings) {
  return {
    host: target.host,
    port: target.port,
    secure: target.secure,
    requireTLS: target.tls === 'required' && !target.secure,
    ignoreTLS: target.tls === 'none',
    opportunisticTLS: target.tls === 'opportunistic',
    tls: { rejectUnauthorized: target.verify },
    name,
    connectionTimeout: timeouts.connectMs,
    dnsTimeout: timeouts.connectMs,
    greetingTimeout: timeouts.greetingMs,
    socketTimeout: timeouts.socketMs,
    // A session that is closed without goodbye has nothing left to say; waiting would only hold the socket.
    socketCloseTimeout: 0,
    maxResponseSize: MAX_REPLY_BYTES,
  }
}

/** Stands in for a stream: the client pipes it exactly when the server said "go ahead", which is when content begins. */
function payloadSource(onGoAhead: (clientStream: Readable) => void): Readable {
  return { pipe: onGoAhead } as unknown as Readable
}

function openingPhase(connection: SMTPConnection, { command = '', response }: NodemailerError): SmtpPhase {
  if (connection.upgrading || command === 'STARTTLS') return 'tls'
  if (command === 'EHLO' || command === 'HELO') return 'hello'
  return response === undefined && connection.stage === 'init' ? 'connect' : 'greeting'
}

function sendingPhase({ command }: NodemailerError): SmtpPhase {
  if (command === 'RCPT TO') return 'rcpt'
  return command === 'DATA' ? 'data' : 'mail'
}

/** The server's SIZE (RFC 1870) is known before anything is sent, so this refusal comes from the client. */
function isOverSizeLimit({ code, command, response }: NodemailerError): boolean {
  return code === 'EMESSAGE' && command === 'MAIL FROM' && response === undefined
}

/** Only for a fault before the content: afterwards the kind is never `unreachable` for these codes. */
function isLost(outcome: SendOutcome): boolean {
  if (outcome.kind !== 'unreachable') return false
  return outcome.code === 'connection_lost' || outcome.code === 'service_unavailable'
}

function unreachable(code: UnreachableCode, reason: string): SendOutcome {
  return { kind: 'unreachable', code, reason }
}

function clientError(code: string, message: string): NodemailerError {
  return Object.assign(new Error(message), { code })
}
