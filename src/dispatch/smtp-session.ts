import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { NodemailerError } from 'nodemailer/lib/errors'
import SMTPConnection, { type SMTPConnectionSendInfo } from 'nodemailer/lib/smtp-connection'
import { reached } from '../crash-point.ts'
import type { SmtpTarget } from '../smtp-url.ts'
import { outcomeOf, parseReply, rateOf, refusedRecipient, type SmtpPhase } from './classify.ts'
import { type Certificate, certificateOf } from './http/api-check.ts'
import {
  CLAIM_LOST,
  type Envelope,
  type SendOutcome,
  type StillOurs,
  type UnreachableCode,
  UPLOAD_BYTES_PER_MS,
} from './transport.ts'

const QUIT_MS = 2_000
/** A server's whole reply; beyond that it is not SMTP. */
const MAX_REPLY_BYTES = 64 * 1024

/** What the kernel takes in one piece, however small its buffers: no stop of the process comes between its bytes. */
const ONE_PIECE_BYTES = 16 * 1024
/** A server has accepted nothing before it has read these (RFC 5321 section 4.1.1.4). */
const END_OF_MAIL_BYTES = '\r\n.\r\n'.length

export type SmtpSettings = {
  readonly target: SmtpTarget
  readonly name: string | undefined
}
type Result<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: NodemailerError }
type HandOver = {
  readonly isStillOurs: StillOurs
  /** The send ended meanwhile, and the connection may be another mail's. */
  readonly isOver: () => boolean
  readonly begin: () => void
}
const NOT_OURS = 'ENOTOURS'
type Done<T> = (error: NodemailerError | null | undefined, value: T) => void

/** What came from the server and was not looked at yet: whole replies, and the beginning of one. */
type Unread = { readonly _responseQueue: readonly string[]; readonly _remainder: string }

/** One connection, for one message at a time. */
export class SmtpSession {
  messages = 0
  ended = false
  readonly #settings: SmtpSettings
  readonly #connection: SMTPConnection
  readonly #secrets: readonly string[]
  #needsReset = false
  #failExchange: ((error: NodemailerError) => void) | undefined

  constructor(settings: SmtpSettings, onEnd: () => void) {
    this.#settings = settings
    this.#secrets = secretsOf(settings.target)
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
    const { target } = this.#settings
    const { timeouts } = target
    const connected = await this.#exchange<undefined>(
      timeouts.connectMs + timeouts.greetingMs,
      signal,
      (done) => connection.connect((error) => done(error, undefined)),
    )
    if (!connected.ok) {
      return explainTls(this.#abandon(openingPhase(connection, connected.error), connected.error))
    }
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

  get isEncrypted(): boolean {
    return this.#connection.secure
  }

  /** The server's, while the connection is encrypted. */
  get certificate(): Certificate | undefined {
    const { _socket: socket } = this.#connection
    return socket instanceof TLSSocket ? certificateOf(socket) : undefined
  }

  async send(
    envelope: Envelope,
    payload: Buffer,
    signal: AbortSignal | undefined,
    isStillOurs: StillOurs = () => true,
  ): Promise<SendOutcome> {
    reached('smtp.connected')
    let handedOver = false
    let isOver = false
    this.messages += 1
    const client = { from: envelope.from, to: [...envelope.to], size: payload.length }
    const source = payloadSource((clientStream) => {
      // The client's own stream would look at every byte again and write twice; the reply is awaited either way.
      clientStream.unpipe()
      void this.#handOver(payload, {
        isStillOurs,
        isOver: () => isOver,
        begin: () => {
          handedOver = true
        },
      })
    })
    const result = await this.#exchange<SMTPConnectionSendInfo>(
      2 * this.#settings.target.timeouts.socketMs + Math.floor(payload.length / UPLOAD_BYTES_PER_MS),
      signal,
      (done) => this.#connection.send(client, source, done),
    )
    isOver = true
    if (result.ok) {
      reached('smtp.answered')
      return this.#accepted(result.value)
    }
    const { error } = result
    if (error.code === NOT_OURS) {
      this.#connection.close()
      return CLAIM_LOST
    }
    const answer = parseReply(error.response ?? '')
    // 503 says that the two sides disagree on where they are: only a new session puts that right.
    this.#needsReset = (answer.smtpCode ?? 0) >= 400 && answer.smtpCode !== 503
    if (isOverSizeLimit(error)) return overSizeLimit(payload.length, error)
    const phase = handedOver ? 'content' : sendingPhase(error)
    return this.#needsReset ? outcomeOf(phase, error) : this.#abandon(phase, error)
  }

  /**
   * Writes nothing unless the server said 354 (any other would read the content as commands), and the end of it only
   * while the mail is still ours to send: without its end the server discards it. What the server said beyond its 354 is no
   * answer to a content that it has not seen, though it would be taken for one.
   */
  async #handOver(payload: Buffer, { isStillOurs, isOver, begin }: HandOver): Promise<void> {
    const { _socket: socket, lastServerResponse: goAhead } = this.#connection
    if (!socket || goAhead === false || !goAhead.startsWith('354')) {
      this.#failExchange?.(clientError('EPROTOCOL', 'the answer to DATA is not 354'))
      return
    }
    if (this.#isAnsweredEarly()) return
    let rest = payload
    if (payload.length > ONE_PIECE_BYTES) {
      begin()
      rest = payload.subarray(-END_OF_MAIL_BYTES)
      // A fault of the connection is reported as its event.
      if (!(await written(socket, payload.subarray(0, -END_OF_MAIL_BYTES)))) return
    }
    const answer = isStillOurs()
    const isOurs = answer === true || (await answer)
    if (isOver()) return
    if (!isOurs) {
      this.#failExchange?.(clientError(NOT_OURS, 'the claim may be lost'))
      return
    }
    // In the middle of a large content it may be a refusal, which the exchange itself hears.
    if (rest === payload && this.#isAnsweredEarly()) return
    reached('smtp.before-content')
    begin()
    socket.write(rest)
    reached('smtp.content-sent')
  }

  /** A server that said more than it was asked is a reply ahead of us from then on: the exchange has failed. */
  #isAnsweredEarly(): boolean {
    if (!this.#hasUnaskedReply()) return false
    this.#failExchange?.(clientError('EPROTOCOL', 'the server answered the content before it was sent'))
    return true
  }

  #hasUnaskedReply(): boolean {
    const { _responseQueue: replies, _remainder: begun } = this.#connection as unknown as Unread
    return replies.length > 0 || begun !== ''
  }

  /** Whether another message can follow. */
  async makeReady(): Promise<boolean> {
    if (this.#hasUnaskedReply()) return false
    if (!this.#needsReset || this.ended) return !this.ended
    this.#needsReset = false
    const reset = await this.#exchange<unknown>(this.#settings.target.timeouts.socketMs, undefined, (done) =>
      this.#connection.reset(done),
    )
    return reset.ok && !this.ended
  }

  /** Says goodbye, but does not wait for long to hear it. */
  quit(): void {
    setTimeout(() => this.close(), Math.min(QUIT_MS, this.#settings.target.timeouts.socketMs)).unref()
    this.#connection.quit()
  }

  close(): void {
    this.#connection.close()
  }

  #accepted(info: SMTPConnectionSendInfo): SendOutcome {
    const { reply = '', smtpCode = 0 } = parseReply(this.#hide(info.response))
    // The client takes any answer that begins with a 2.
    if (smtpCode < 200 || smtpCode > 299) {
      return this.#abandon(
        'content',
        clientError('EPROTOCOL', 'the answer to the message is not an SMTP reply'),
      )
    }
    const refused = (info.rejectedErrors ?? []).map((error) => refusedRecipient(this.#withoutSecrets(error)))
    const id = info.serverMessageId
    // What the provider says of itself while it refuses one recipient holds for the next message as well.
    const rate = refused.map((each) => rateOf(each.code, each)).find((each) => each.rate !== undefined)
    return {
      kind: 'accepted',
      reply,
      refused,
      ...rate,
      ...(id === undefined ? {} : { providerMessageId: id }),
    }
  }

  /** Some servers repeat what they refuse. Before anything is cut off, as half a password is one, too. */
  #withoutSecrets(error: NodemailerError): NodemailerError {
    if (this.#secrets.length === 0) return error
    error.message = this.#hide(error.message)
    if (error.response !== undefined) error.response = this.#hide(error.response)
    for (const each of error.rejectedErrors ?? []) if (each !== error) this.#withoutSecrets(each)
    return error
  }

  #hide(text: string): string {
    return this.#secrets.reduce((rest, secret) => rest.replaceAll(secret, '[secret]'), text)
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
      const finish = (given: Result<T>) => {
        const result = given.ok ? given : { ok: false as const, error: this.#withoutSecrets(given.error) }
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

/** False when the connection broke. */
function written(socket: Socket, bytes: Buffer): Promise<boolean> {
  return new Promise((resolve) => {
    socket.write(bytes, (error) => resolve(!error))
  })
}

/** As AUTH PLAIN and AUTH LOGIN put the password on the wire (RFC 4616, RFC 4954), and as it is. */
function secretsOf({ auth }: SmtpTarget): readonly string[] {
  if (auth === undefined || auth.pass === '') return []
  const encoded = [`\0${auth.user}\0${auth.pass}`, auth.pass].map((text) =>
    Buffer.from(text).toString('base64'),
  )
  return [...encoded, auth.pass]
}

function connectionOptions({ target, name }: SmtpSettings) {
  const { timeouts } = target
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

/** Nothing was said to the server, so the words are ours; the client's own name the limit. */
function overSizeLimit(bytes: number, { message }: NodemailerError): SendOutcome {
  const reply = `The mail has ${bytes} bytes, more than the relay takes: ${message}.`
  return { kind: 'refused', code: 'message_too_large', reply }
}

function explainTls(outcome: SendOutcome): SendOutcome {
  if (outcome.kind !== 'unreachable' || outcome.code !== 'tls_failed') return outcome
  const remedy =
    'mail leaves this machine over verified TLS only, unless ?tls=none in the SMTP URL says otherwise'
  return { ...outcome, reason: `${outcome.reason} (${remedy})` }
}

export function unreachable(code: UnreachableCode, reason: string): SendOutcome {
  return { kind: 'unreachable', code, reason }
}

function clientError(code: string, message: string): NodemailerError {
  return Object.assign(new Error(message), { code })
}
