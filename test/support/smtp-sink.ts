import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { SMTPServer, type SMTPServerOptions } from 'smtp-server'
import type { Scope } from './scope.ts'

export type SunkMail = { readonly from: string; readonly to: readonly string[]; readonly raw: Buffer }
/** What to answer instead of 250; undefined accepts. The text may begin with an enhanced code. */
export type Refusal = { readonly code: number; readonly text: string } | undefined

export type SmtpSinkOptions = {
  readonly onMailFrom?: (address: string) => Refusal
  readonly onRecipient?: (address: string) => Refusal
  /** Awaited before the answer to the content, so a test can hold mails in the middle of a send. */
  readonly onMail?: (mail: SunkMail) => Refusal | Promise<Refusal>
  /** Offers authentication and demands this user. */
  readonly auth?: { readonly user: string; readonly pass: string }
  /** `none` by default. The certificate is one that nobody trusts. */
  readonly tls?: 'none' | 'starttls' | 'implicit'
  readonly maxBytes?: number
  readonly pipelining?: boolean
}

export type SmtpSink = {
  readonly url: string
  readonly host: string
  readonly mails: readonly SunkMail[]
  /** Connections ever made, open now, and the most open at once. */
  readonly connections: { readonly total: number; readonly open: number; readonly most: number }
  /** Resolves as soon as `count` mails were accepted. */
  waitForMails(count: number): Promise<readonly SunkMail[]>
  /** Resolves as soon as no connection is open. */
  waitUntilQuiet(): Promise<void>
  /** Ends every open connection, as a server does that restarts. */
  dropConnections(): Promise<void>
}

/** Values with waiters: `until` resolves on the first change after which the condition holds. */
function createSignal() {
  const waiting = new Set<() => void>()
  return {
    changed: () => {
      for (const check of waiting) check()
    },
    until: (holds: () => boolean) =>
      new Promise<void>((resolve) => {
        const check = () => {
          if (!holds()) return
          waiting.delete(check)
          resolve()
        }
        waiting.add(check)
        check()
      }),
  }
}

/** A well-behaved SMTP server on loopback that keeps what it is given. Stops with the test. */
export async function startSmtpSink(t: Scope, options: SmtpSinkOptions = {}): Promise<SmtpSink> {
  const mails: SunkMail[] = []
  const connections = { total: 0, open: 0, most: 0 }
  const signal = createSignal()
  const server = new SMTPServer({ ...serverOptions(options), ...handlers(options, mails, signal.changed) })
  // A client that breaks off is part of what is tested; the test sees it from the client's side.
  server.on('error', () => signal.changed())
  const sockets = trackSockets(server.server, connections, signal.changed)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => stop(server, sockets))

  const host = `127.0.0.1:${(server.server.address() as AddressInfo).port}`
  return {
    url: `${options.tls === 'implicit' ? 'smtps' : 'smtp'}://${host}`,
    host,
    mails,
    connections,
    waitForMails: async (count) => {
      await signal.until(() => mails.length >= count)
      return mails
    },
    waitUntilQuiet: () => signal.until(() => connections.open === 0),
    dropConnections: () => {
      for (const socket of sockets) socket.destroy()
      return signal.until(() => connections.open === 0)
    },
  }
}

function serverOptions(options: SmtpSinkOptions): SMTPServerOptions {
  const { tls = 'none', auth, maxBytes, pipelining = true } = options
  return {
    secure: tls === 'implicit',
    disabledCommands: [...(tls === 'starttls' ? [] : ['STARTTLS']), ...(auth === undefined ? ['AUTH'] : [])],
    allowInsecureAuth: true,
    hidePIPELINING: !pipelining,
    hideENHANCEDSTATUSCODES: true,
    disableReverseLookup: true,
    logger: false,
    ...(maxBytes === undefined ? {} : { size: maxBytes }),
  }
}

function handlers(options: SmtpSinkOptions, mails: SunkMail[], changed: () => void): SMTPServerOptions {
  return {
    onAuth: ({ username, password }, _session, callback) => {
      const known = username === options.auth?.user && password === options.auth?.pass
      callback(known ? null : replyError({ code: 535, text: '5.7.8 Wrong user or password' }), {
        user: username,
      })
    },
    onMailFrom: ({ address }, _session, callback) => callback(replyError(options.onMailFrom?.(address))),
    onRcptTo: ({ address }, _session, callback) => callback(replyError(options.onRecipient?.(address))),
    onData: async (stream, { envelope }, callback) => {
      const from = envelope.mailFrom === false ? '' : envelope.mailFrom.address
      const raw = await buffer(stream).catch((error: NodeJS.ErrnoException) => {
        // The client was gone in the middle of the content: there is no mail, and nobody to answer.
        if (error.code === 'ECONNECTION') return undefined
        throw error
      })
      if (raw === undefined) return
      const mail = { from, to: envelope.rcptTo.map(({ address }) => address), raw }
      const refusal = await options.onMail?.(mail)
      if (refusal === undefined) mails.push(mail)
      callback(replyError(refusal))
      changed()
    },
  }
}

function replyError(refusal: Refusal): Error | null {
  return refusal === undefined ? null : Object.assign(new Error(refusal.text), { responseCode: refusal.code })
}

function trackSockets(
  listener: { on(event: 'connection', handler: (socket: Socket) => void): unknown },
  connections: { total: number; open: number; most: number },
  changed: () => void,
): Set<Socket> {
  const sockets = new Set<Socket>()
  listener.on('connection', (socket) => {
    sockets.add(socket)
    connections.total += 1
    connections.open += 1
    connections.most = Math.max(connections.most, connections.open)
    changed()
    socket.once('close', () => {
      sockets.delete(socket)
      connections.open -= 1
      changed()
    })
  })
  return sockets
}

async function stop(server: SMTPServer, sockets: Set<Socket>): Promise<void> {
  for (const socket of sockets) socket.destroy()
  await new Promise<void>((resolve) => server.close(resolve))
}

/**
 * What a raw server does, step by step: writes a string as it is, waits until the client has sent a text that matches, or
 * does something to the socket. After the last step it stays silent.
 */
export type RawStep = string | { readonly expect: RegExp } | ((socket: Socket) => void)

export type RawSmtp = {
  readonly url: string
  readonly connections: { readonly total: number; readonly open: number; readonly most: number }
  /** All that clients sent, in order of arrival. */
  received(): string
  /** Resolves once clients have sent something that matches. */
  waitFor(pattern: RegExp): Promise<void>
  waitUntilQuiet(): Promise<void>
}

/**
 * A server for hostile bytes: every connection runs the script from its start, or the script that `scriptFor` gives for
 * the connection's number (from 1). Stops with the test.
 */
export async function startRawSmtp(
  t: Scope,
  script: readonly RawStep[] | ((connection: number) => readonly RawStep[]),
): Promise<RawSmtp> {
  const connections = { total: 0, open: 0, most: 0 }
  const signal = createSignal()
  let received = ''
  const server = createServer()
  const sockets = trackSockets(server, connections, signal.changed)
  server.on('connection', (socket) => {
    const steps = typeof script === 'function' ? script(connections.total) : script
    play(socket, [...steps], (chunk) => {
      received += chunk
      signal.changed()
    })
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return {
    url: `smtp://127.0.0.1:${(server.address() as AddressInfo).port}`,
    connections,
    received: () => received,
    waitFor: (pattern) => signal.until(() => pattern.test(received)),
    waitUntilQuiet: () => signal.until(() => connections.open === 0),
  }
}

function play(socket: Socket, steps: RawStep[], onReceived: (chunk: string) => void): void {
  let unread = ''
  const advance = () => {
    for (let step = steps[0]; step !== undefined; step = steps[0]) {
      if (typeof step === 'object') {
        const match = step.expect.exec(unread)
        if (match === null) return
        unread = unread.slice(match.index + match[0].length)
      } else if (typeof step === 'string') socket.write(step, 'latin1')
      else step(socket)
      steps.shift()
    }
  }
  socket.on('data', (chunk) => {
    unread += chunk.toString('latin1')
    onReceived(chunk.toString('latin1'))
    advance()
  })
  // Clients under test hang up in the middle; that is theirs to explain.
  socket.on('error', () => socket.destroy())
  advance()
}

/** The steps of a polite dialogue, to be cut off where a test wants trouble. Without PIPELINING: one command at a time. */
export const POLITE = {
  greeting: ['220 raw.test ESMTP\r\n', { expect: /EHLO .*\r\n/ }, '250-raw.test\r\n250 8BITMIME\r\n'],
  mail: [{ expect: /MAIL FROM:.*\r\n/ }, '250 2.1.0 Ok\r\n'],
  recipient: [{ expect: /RCPT TO:.*\r\n/ }, '250 2.1.5 Ok\r\n'],
  data: [{ expect: /DATA\r\n/ }, '354 Go ahead\r\n'],
  content: [{ expect: /\r\n\.\r\n/ }],
} as const satisfies Record<string, readonly RawStep[]>
