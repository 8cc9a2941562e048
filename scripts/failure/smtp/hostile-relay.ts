import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { createSecureContext, TLSSocket } from 'node:tls'
import { STAND_IN_CERTIFICATE, STAND_IN_CERTIFICATE_KEY } from '../../../test/support/provider-stand-ins.ts'
import type { Scene } from '../run.ts'

/**
 * An SMTP relay that is polite but for its misdeeds. A misdeed before MAIL is done to one connection after the other, in
 * turn; one from MAIL on is done to its own messages, which are known by their sender: `m<misdeed>.<n>@<lane>.example`.
 */

export type Step =
  | 'connect'
  | 'ehlo'
  | 'helo'
  | 'starttls'
  | 'secure ehlo'
  | 'auth'
  | 'mail'
  | 'rcpt'
  | 'second rcpt'
  | 'data'
  | 'content'
  | 'dot'

/** Text is written as it is, a byte a character. */
export type Act = string | ((talk: Talk) => void)
export type Acts = Readonly<Partial<Record<Step, readonly Act[]>>>

export type Encounter = {
  readonly key: string
  /** The first transaction of its connection; on a later one a lost connection is replaced without a word. */
  readonly isFresh: boolean
  readonly at: number
  /** Milliseconds until the message came again. */
  backAfterMs?: number
}

export type RelayOptions = {
  /** By place; the sender of a message names it. */
  readonly misdeeds: readonly { readonly acts: Acts; readonly always?: true }[]
  /** The misdeeds that connections meet, one each, by place; those after them are treated politely. */
  readonly badConnections?: readonly number[]
  /** Lines of the answer to EHLO after the name. */
  readonly offers?: readonly string[]
  /** Nothing listens until `appear`. */
  readonly isAbsent?: true
}

export type HostileRelay = {
  readonly host: string
  readonly encounters: readonly Encounter[]
  /** How often each misdeed was done, by place. */
  readonly done: readonly number[]
  /** Whole contents that were not refused, by recipient: what that one may see. */
  readonly copies: ReadonlyMap<string, number>
  appear(): Promise<void>
}

type Relay = Required<Pick<RelayOptions, 'misdeeds' | 'badConnections' | 'offers'>> & {
  readonly ledger: Scene['ledger']
  readonly encounters: Encounter[]
  readonly done: number[]
  readonly copies: Map<string, number>
  readonly lastMet: Map<string, Encounter>
  connections: number
}

/** Offered on every second connection: the others talk one command at a time. */
const PIPELINING = ['PIPELINING', 'CHUNKING', 'DSN']
const CERTIFICATE = createSecureContext({ cert: STAND_IN_CERTIFICATE, key: STAND_IN_CERTIFICATE_KEY })
/** Where nobody else listens or connects from, so that the port of an absent relay stays free. */
const ABSENT_HOST = '127.0.0.2'

export async function startHostileRelay(scene: Scene, options: RelayOptions): Promise<HostileRelay> {
  const { misdeeds, badConnections = [], offers = [], isAbsent = false } = options
  const relay: Relay = {
    misdeeds,
    badConnections,
    offers,
    ledger: scene.ledger,
    encounters: [],
    done: misdeeds.map(() => 0),
    copies: new Map(),
    lastMet: new Map(),
    connections: 0,
  }
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    new Talk(relay, socket).begin()
  })
  const host = isAbsent ? ABSENT_HOST : '127.0.0.1'
  await once(server.listen(0, host), 'listening')
  const { port } = server.address() as AddressInfo
  const close = () => new Promise((resolve) => server.close(resolve))
  if (isAbsent) await close()
  scene.after(async () => {
    for (const socket of sockets) socket.destroy()
    if (server.listening) await close()
  })
  return {
    host: `${host}:${port}`,
    encounters: relay.encounters,
    done: relay.done,
    copies: relay.copies,
    appear: async () => {
      await once(server.listen(port, host), 'listening')
    },
  }
}

/** One connection. */
export class Talk {
  readonly #relay: Relay
  readonly #offers: readonly string[]
  #socket: Socket
  #unread = ''
  /** The place of the misdeed that this connection, or the message it is at, is in for. */
  #misdeed: number | undefined
  #isMet = false
  #isSecure = false
  #isDeaf = false
  #transactions = 0
  #key = ''
  #recipients: string[] = []
  #isContent = false
  #hasBegun = false
  #hasSender = false

  constructor(relay: Relay, socket: Socket) {
    this.#relay = relay
    this.#socket = socket
    const number = relay.connections
    relay.connections += 1
    this.#misdeed = relay.badConnections[number]
    this.#offers = number % 2 === 0 ? relay.offers : [...relay.offers, ...PIPELINING]
  }

  begin(): void {
    this.#listen(this.#socket)
    this.#step('connect', '220 raw.test ESMTP')
  }

  /** The connection as it is now: under TLS once that was begun. */
  get socket(): Socket {
    return this.#socket
  }

  write(text: string): void {
    if (this.#socket.writable) this.#socket.write(text, 'latin1')
  }

  /** From now on its recipients may see this mail. */
  keep(): void {
    const { copies, ledger } = this.#relay
    for (const recipient of this.#recipients) {
      copies.set(recipient, (copies.get(recipient) ?? 0) + 1)
      ledger.deliver(recipient)
    }
  }

  /** Lets the content come, whatever was said. */
  takeContent(): void {
    this.#isContent = true
    this.#hasBegun = false
  }

  encrypt(context = CERTIFICATE): void {
    const plain = this.#socket
    plain.removeAllListeners('data')
    this.#socket = new TLSSocket(plain, { isServer: true, secureContext: context })
    this.#unread = ''
    this.#isSecure = true
    this.#listen(this.#socket)
  }

  #listen(socket: Socket): void {
    socket.setNoDelay(true)
    // Clients that give up in the middle are what these runs are about.
    socket.on('error', () => socket.destroy())
    socket.on('data', (chunk) => {
      this.#unread += chunk.toString('latin1')
      this.#advance()
    })
  }

  #advance(): void {
    while (this.#socket.writable && !this.#socket.isPaused() && !this.#isDeaf) {
      if (this.#isContent) {
        if (!this.#takeSome()) return
      } else {
        const end = this.#unread.indexOf('\r\n')
        if (end === -1) return
        const line = this.#unread.slice(0, end)
        this.#unread = this.#unread.slice(end + 2)
        this.#answer(line)
      }
    }
  }

  /** False when the content goes on. */
  #takeSome(): boolean {
    if (!this.#hasBegun && this.#unread !== '') {
      this.#hasBegun = true
      this.#step('content')
      return true
    }
    const end = this.#unread.indexOf('\r\n.\r\n')
    if (end === -1) {
      this.#unread = this.#unread.slice(-4)
      return false
    }
    this.#unread = this.#unread.slice(end + 5)
    this.#isContent = false
    if (!this.#step('dot')) {
      this.keep()
      this.write('250 2.0.0 Queued\r\n')
    }
    return true
  }

  #answer(line: string): void {
    switch (line.slice(0, 4).toUpperCase()) {
      case 'EHLO':
        this.#step(this.#isSecure ? 'secure ehlo' : 'ehlo', this.#ownOffers().map(asLine).join('\r\n'))
        return
      case 'HELO':
        this.#step('helo', '250 raw.test')
        return
      case 'STAR':
        if (this.#step('starttls', '220 Go')) {
          // What comes now is TLS, in which a line may seem to end.
          this.#isDeaf = !this.#isSecure
          return
        }
        this.encrypt()
        return
      case 'AUTH':
        this.#step('auth', '235 2.7.0 Ok')
        return
      case 'MAIL':
        this.#begin(addressIn(line))
        return
      case 'RCPT':
        this.#takeRecipient(addressIn(line))
        return
      case 'DATA':
        if (this.#recipients.length === 0) this.write('503 5.5.1 Nobody to send it to\r\n')
        else if (!this.#step('data', '354 Go ahead')) this.takeContent()
        return
      case 'QUIT':
        this.write('221 Bye\r\n')
        this.#socket.end()
        return
      default:
        this.write('250 2.0.0 Ok\r\n')
    }
  }

  #ownOffers(): readonly string[] {
    const offers = this.#isSecure ? this.#offers.filter((offer) => offer !== 'STARTTLS') : this.#offers
    return ['raw.test', ...offers, '8BITMIME']
  }

  #begin(key: string): void {
    this.#transactions += 1
    this.#key = key
    this.#recipients = []
    const { lastMet, misdeeds } = this.#relay
    const met = lastMet.get(key)
    if (met !== undefined) met.backAfterMs ??= performance.now() - met.at
    const place = Number(/^m(\d+)\./.exec(key)?.[1] ?? -1)
    this.#misdeed = met === undefined || misdeeds[place]?.always ? place : undefined
    this.#isMet = false
    this.#hasSender = !this.#step('mail', '250 2.1.0 Ok') || this.#isFriendly('mail')
  }

  #takeRecipient(recipient: string): void {
    const step = this.#recipients.length === 0 ? 'rcpt' : 'second rcpt'
    if (!this.#hasSender) this.write('503 5.5.1 Send MAIL first\r\n')
    else if (!this.#step(step, '250 2.1.5 Ok') || this.#isFriendly(step)) this.#recipients.push(recipient)
  }

  /** Answers so that the dialogue goes on, though not as it should. */
  #isFriendly(step: Step): boolean {
    const [first] = this.#actsAt(step) ?? []
    return typeof first === 'string' && first.startsWith('2')
  }

  #actsAt(step: Step): readonly Act[] | undefined {
    return this.#misdeed === undefined ? undefined : this.#relay.misdeeds[this.#misdeed]?.acts[step]
  }

  /** True when it did its misdeed instead of what `polite` says. */
  #step(step: Step, polite?: string): boolean {
    const acts = this.#actsAt(step)
    if (acts === undefined) {
      if (polite !== undefined) this.write(`${polite}\r\n`)
      return false
    }
    this.#meet()
    for (const act of acts) {
      if (typeof act === 'string') this.write(act)
      else act(this)
    }
    return true
  }

  /** Noted once a connection, or a transaction of a message. */
  #meet(): void {
    if (this.#isMet || this.#misdeed === undefined) return
    this.#isMet = true
    const { done, encounters, lastMet } = this.#relay
    done[this.#misdeed] = (done[this.#misdeed] ?? 0) + 1
    const isFresh = this.#transactions <= 1
    const encounter: Encounter = { key: this.#key, isFresh, at: performance.now() }
    encounters.push(encounter)
    if (this.#key !== '') lastMet.set(this.#key, encounter)
  }
}

function asLine(line: string, index: number, lines: readonly string[]): string {
  return `250${index === lines.length - 1 ? ' ' : '-'}${line}`
}

function addressIn(line: string): string {
  return /<([^>]*)>/.exec(line)?.[1] ?? line
}
