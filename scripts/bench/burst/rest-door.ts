import { createConnection, type Socket } from 'node:net'
import { isWhole } from '../http-answer.ts'
import { type Answer, BROKEN, type Door, type Submission } from './door.ts'

/** A keep-alive connection of its own, opened again when it broke. */
export function openRestDoor(url: string, apiKey: string): Door {
  const { host, hostname, port } = new URL(url)
  const head = [
    'POST /emails HTTP/1.1',
    `Host: ${host}`,
    `Authorization: Bearer ${apiKey}`,
    'Content-Type: application/json',
  ].join('\r\n')
  let socket: Socket | undefined
  let answer: Buffer = Buffer.alloc(0)
  let hear: (answer: Answer) => void = () => undefined
  const connect = () => {
    const opened = createConnection({ host: hostname, port: Number(port), noDelay: true })
    opened.on('data', (chunk) => {
      answer = answer.length === 0 ? chunk : Buffer.concat([answer, chunk])
      if (!isWhole(answer)) return
      const whole = answer
      answer = Buffer.alloc(0)
      hear(readAnswer(whole))
    })
    opened.on('error', () => opened.destroy())
    opened.on('close', () => {
      socket = undefined
      answer = Buffer.alloc(0)
      hear(BROKEN)
    })
    return opened
  }
  return (submission) =>
    new Promise((resolve) => {
      hear = resolve
      socket ??= connect()
      socket.write(requestOf(head, submission))
    })
}

function requestOf(head: string, { text, key }: Submission): string {
  return `${head}\r\nIdempotency-Key: ${key}\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`
}

function readAnswer(bytes: Buffer): Answer {
  const text = bytes.toString('latin1')
  const retryAfterS = /\r\nretry-after: (\d+)/i.exec(text)?.[1]
  return {
    status: Number(text.slice(9, 12)),
    retryAfterS: retryAfterS === undefined ? undefined : Number(retryAfterS),
    isDurable: /\r\nsluice-durability: durable\r\n/i.test(text),
  }
}
