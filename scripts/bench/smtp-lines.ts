/**
 * As little of SMTP as the protocol allows (RFC 5321): line ends are looked for, and in the content the final dot.
 * Whoever measures with it wants to measure something else.
 */
import { createServer, type Socket } from 'node:net'

const LF = 0x0a
const END = Buffer.from('\r\n.\r\n')
const HELLO = '250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000\r\n'

/** Takes all mail that comes to a free port; `onMail` hears the last `RCPT TO` of each as it is accepted. */
export function listenForMail(onMail: (recipient: string) => void): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer((socket) => serve(socket, onMail)).listen(0, '127.0.0.1', () => {
      const address = server.address()
      if (address !== null && typeof address === 'object') resolve(address.port)
    })
  })
}

function serve(socket: Socket, onMail: (recipient: string) => void): void {
  let rest: Buffer = Buffer.alloc(0)
  let inContent = false
  let recipient = ''
  const answerTo = (line: string): string => {
    switch (line.slice(0, 4).toUpperCase()) {
      case 'EHLO':
        return HELLO
      case 'RCPT':
        recipient = line
        return '250 ok\r\n'
      case 'DATA':
        return '354 go ahead\r\n'
      case 'QUIT':
        return '221 bye\r\n'
      default:
        return '250 ok\r\n'
    }
  }
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
        onMail(recipient)
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
