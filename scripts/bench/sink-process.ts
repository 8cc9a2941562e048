/**
 * An SMTP sink that does as little as the protocol allows: it looks for line ends, and in the content for
 * the final dot. It counts, and tells the moment at which a count was reached; nothing is kept.
 */
import { createServer, type Socket } from 'node:net'
import type { SinkOrder, SinkReport } from './sink.ts'

const LF = 0x0a
const END = Buffer.from('\r\n.\r\n')
const HELLO = '250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000\r\n'
/** How often progress is reported when nobody waits for a count. */
const PROGRESS_MS = 250

let accepted = 0
let wanted = Number.POSITIVE_INFINITY
let reported = 0

function tell(report: SinkReport): void {
  process.send?.(report)
}

function accept(): void {
  accepted += 1
  if (accepted !== wanted) return
  wanted = Number.POSITIVE_INFINITY
  tell({ kind: 'reached', accepted, atNs: String(process.hrtime.bigint()) })
}

function answerTo(line: string): string {
  switch (line.slice(0, 4).toUpperCase()) {
    case 'EHLO':
      return HELLO
    case 'DATA':
      return '354 go ahead\r\n'
    case 'QUIT':
      return '221 bye\r\n'
    default:
      return '250 ok\r\n'
  }
}

function serve(socket: Socket): void {
  let rest: Buffer = Buffer.alloc(0)
  let inContent = false
  socket.setNoDelay(true)
  socket.on('error', () => socket.destroy())
  socket.write('220 sink ESMTP\r\n')
  socket.on('data', (chunk) => {
    let bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let answer = ''
    for (;;) {
      if (inContent) {
        const end = bytes.indexOf(END)
        if (end === -1) break
        bytes = bytes.subarray(end + END.length)
        inContent = false
        accept()
        answer += '250 2.0.0 taken\r\n'
      } else {
        const end = bytes.indexOf(LF)
        if (end === -1) break
        const reply = answerTo(bytes.toString('latin1', 0, end))
        bytes = bytes.subarray(end + 1)
        inContent = reply.startsWith('354')
        answer += reply
      }
    }
    rest = bytes
    if (answer !== '') socket.write(answer)
    if (answer.endsWith('221 bye\r\n')) socket.end()
  })
}

const server = createServer(serve).listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') tell({ kind: 'listening', port: address.port })
})
process.on('message', (order: SinkOrder) => {
  wanted = order.count
  if (accepted >= wanted) {
    wanted = Number.POSITIVE_INFINITY
    tell({ kind: 'reached', accepted, atNs: String(process.hrtime.bigint()) })
  }
})
process.on('disconnect', () => process.exit(0))
setInterval(() => {
  if (accepted === reported) return
  reported = accepted
  tell({ kind: 'progress', accepted })
}, PROGRESS_MS).unref()
