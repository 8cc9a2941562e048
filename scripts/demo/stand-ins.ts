import { once } from 'node:events'
import { createServer as createHttpServer, type IncomingMessage } from 'node:http'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { json } from 'node:stream/consumers'

/** The providers of the demo, on loopback: they take mail, note whose it was, and throw it away. */

export type StandIn = {
  readonly port: number
  /** How often each message arrived, by its X-Sluice-Id. */
  readonly arrived: ReadonlyMap<string, number>
  close(): Promise<void>
}

export type Relay = StandIn & { isBroken: boolean }

const NO_ROOM = '421 4.3.2 relay.example: out of disk space, come back later\r\n'

/** An SMTP relay. Broken, it answers 421 and hangs up, as one does whose disk is full. */
export async function startRelay(): Promise<Relay> {
  const arrived = new Map<string, number>()
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy())
    if (relay.isBroken) socket.end(NO_ROOM)
    else {
      speakSmtp(socket, {
        take: (mail) => note(arrived, /^X-Sluice-Id: *(\S+)/im.exec(mail)?.[1]),
        isBroken: () => relay.isBroken,
      })
    }
  })
  const relay: Relay = { ...(await listening(server, arrived)), isBroken: false }
  return relay
}

type Mailbox = { take(mail: string): void; isBroken(): boolean }

function speakSmtp(socket: Socket, { take, isBroken }: Mailbox): void {
  const reply = (line: string) => socket.write(`${line}\r\n`)
  let input = ''
  let isData = false
  const next = () => {
    const end = isData ? input.indexOf('\r\n.\r\n') : input.indexOf('\r\n')
    if (end === -1) return false
    const part = input.slice(0, end)
    input = input.slice(end + (isData ? 5 : 2))
    if (isData) {
      isData = false
      take(part)
      reply('250 2.0.0 taken')
    } else if (isBroken()) {
      // Also on connections that were kept: between mails, so that none is in doubt.
      socket.end(NO_ROOM)
      return false
    } else if (/^data$/i.test(part)) {
      isData = true
      reply('354 go on')
    } else if (/^ehlo /i.test(part)) socket.write('250-relay.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n')
    else if (/^quit$/i.test(part)) socket.end('221 2.0.0 bye\r\n')
    else reply('250 2.0.0 ok')
    return true
  }
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => {
    input += chunk
    while (next());
  })
  reply('220 relay.example ESMTP')
}

export type ThrottlingApi = StandIn & { readonly refusals: () => number }

/** Resend's API as far as sending needs it: so many mails a second, and 429 with Retry-After for the rest. */
export async function startThrottlingApi(mailsPerSecond: number): Promise<ThrottlingApi> {
  const arrived = new Map<string, number>()
  let refusals = 0
  let level = 0
  let seenAt = Date.now()
  /** A bucket that leaks: what it holds is paid off at the rate, and until then nothing more is taken. */
  const waitS = (mails: number) => {
    const now = Date.now()
    level = Math.max(0, level - ((now - seenAt) / 1_000) * mailsPerSecond)
    seenAt = now
    if (level >= mailsPerSecond) return Math.ceil((level - mailsPerSecond + 1) / mailsPerSecond)
    level += mails
    return 0
  }
  const server = createHttpServer(async (request, response) => {
    const mails = await mailsOf(request)
    response.setHeader('content-type', 'application/json')
    const retryAfterS = waitS(mails.length)
    if (retryAfterS > 0) {
      refusals += 1
      response.writeHead(429, { 'retry-after': String(retryAfterS) })
      response.end('{"statusCode":429,"name":"rate_limit_exceeded","message":"Too many requests."}')
      return
    }
    for (const mail of mails) note(arrived, mail.headers?.['X-Sluice-Id'])
    const data = mails.map(() => ({ id: crypto.randomUUID() }))
    response.end(JSON.stringify(request.url === '/emails/batch' ? { data } : data[0]))
  })
  return { ...(await listening(server, arrived)), refusals: () => refusals }
}

type ApiMail = { readonly headers?: Readonly<Record<string, string>> }

async function mailsOf(request: IncomingMessage): Promise<ApiMail[]> {
  const body = (await json(request)) as ApiMail | ApiMail[]
  return Array.isArray(body) ? body : [body]
}

function note(arrived: Map<string, number>, id: string | undefined): void {
  if (id !== undefined) arrived.set(id, (arrived.get(id) ?? 0) + 1)
}

async function listening(server: Server, arrived: ReadonlyMap<string, number>): Promise<StandIn> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    arrived,
    close: async () => {
      server.close()
      for (const socket of sockets) socket.destroy()
      await once(server, 'close')
    },
  }
}
