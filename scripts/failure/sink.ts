import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { Scene } from './run.ts'

export type RecordingSink = {
  readonly url: string
  readonly port: number
  /** Mails whose content has come and whose answer has not gone yet. */
  inFlight(): number
  /** Recipients that have a copy by now, each copy counted. */
  delivered(): number
}

export type RecordingSinkOptions = {
  /** Milliseconds between the final dot and the answer: what is in flight when something dies. Default 0. */
  readonly delayMs?: number
  /** Called for each mail before its answer, with its recipients; the answer waits for it. */
  readonly onMail?: (recipients: readonly string[], connection: number) => Promise<void> | void
  /** Called before the answer to each command, which waits for it; connections count from 1. */
  readonly onCommand?: (verb: Verb, connection: number) => Promise<void> | void
  /** What is answered instead of a 250, such as `451 4.7.1 later`; then the mail is not taken. */
  readonly refusalOf?: (recipients: readonly string[]) => string | undefined
  /** The address to listen on. Default 127.0.0.1. */
  readonly host?: string
}

export type Verb = 'CONNECT' | 'EHLO' | 'MAIL' | 'RCPT' | 'DATA' | 'RSET' | 'QUIT'

const LF = 0x0a
const END = Buffer.from('\r\n.\r\n')
const HELLO = '250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000\r\n'

/**
 * An SMTP server that notes each accepted recipient in the ledger and keeps nothing else. A mail counts from the moment its
 * answer is due, whether or not anybody is left to hear it: that is the copy its recipient would have.
 */
export async function startRecordingSink(
  scene: Scene,
  options: RecordingSinkOptions = {},
): Promise<RecordingSink> {
  const sockets = new Set<Socket>()
  let inFlight = 0
  let delivered = 0
  let connections = 0
  const take = async (recipients: readonly string[], connection: number) => {
    const refusal = options.refusalOf?.(recipients)
    if (refusal !== undefined) return refusal
    inFlight += 1
    if (options.delayMs) await delay(options.delayMs)
    await options.onMail?.(recipients, connection)
    inFlight -= 1
    delivered += recipients.length
    for (const recipient of recipients) scene.ledger.deliver(recipient)
    return '250 2.0.0 taken'
  }
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    connections += 1
    const connection = connections
    serve(socket, {
      onCommand: (verb) => options.onCommand?.(verb, connection),
      take: (recipients) => take(recipients, connection),
    })
  })
  await once(server.listen(0, options.host ?? '127.0.0.1'), 'listening')
  scene.after(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  const { port } = server.address() as AddressInfo
  return {
    url: `smtp://${options.host ?? '127.0.0.1'}:${port}`,
    port,
    inFlight: () => inFlight,
    delivered: () => delivered,
  }
}

type Session = {
  onCommand(verb: Verb): Promise<void> | void
  take(recipients: readonly string[]): Promise<string>
}

function serve(socket: Socket, { onCommand, take }: Session): void {
  let bytes: Buffer = Buffer.alloc(0)
  let recipients: string[] = []
  let isContent = false
  let isBusy = false
  const answerTo = (line: string): string => {
    switch (line.slice(0, 4).toUpperCase()) {
      case 'EHLO':
        return HELLO
      case 'RCPT':
        recipients.push(/<([^>]*)>/.exec(line)?.[1] ?? line)
        return '250 2.1.5 ok\r\n'
      case 'DATA':
        isContent = true
        return '354 go ahead\r\n'
      case 'QUIT':
        return '221 bye\r\n'
      default:
        return '250 ok\r\n'
    }
  }
  const advance = async () => {
    if (isBusy) return
    isBusy = true
    for (;;) {
      const end = isContent ? bytes.indexOf(END) : bytes.indexOf(LF)
      if (end === -1) break
      if (isContent) {
        bytes = bytes.subarray(end + END.length)
        isContent = false
        const taken = recipients
        recipients = []
        socket.write(`${await take(taken)}\r\n`)
      } else {
        const line = bytes.toString('latin1', 0, end)
        bytes = bytes.subarray(end + 1)
        await onCommand(line.slice(0, 4).toUpperCase() as Verb)
        const answer = answerTo(line)
        socket.write(answer)
        if (answer.startsWith('221')) socket.end()
      }
    }
    isBusy = false
  }
  socket.setNoDelay(true)
  // Its client was killed, which is what these runs do.
  socket.on('error', () => socket.destroy())
  socket.on('data', (chunk) => {
    bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
    void advance()
  })
  void Promise.resolve(onCommand('CONNECT')).then(() => socket.write('220 sink ESMTP\r\n'))
}
