import { createConnection, type Socket } from 'node:net'
import { type Answer, BROKEN, type Door, type Submission } from './door.ts'
import { isWhole } from './http-answer.ts'

export type RestTarget = { readonly url: string; readonly apiKey: string; readonly isBuffered?: boolean }

/**
 * A keep-alive connection of its own, opened again when it broke. It costs little: answers are read no further than
 * needed to know where they end, and what they say of acceptance.
 */
export function openRestDoor({ url, apiKey, isBuffered = false }: RestTarget): Door {
  const { host, hostname, port } = new URL(url)
  const head = [
    'POST /emails HTTP/1.1',
    `Host: ${host}`,
    `Authorization: Bearer ${apiKey}`,
    'Content-Type: application/json',
    ...(isBuffered ? ['Sluice-Durability: buffered'] : []),
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
  return {
    handIn: (submission) =>
      new Promise((resolve) => {
        hear = resolve
        socket ??= connect()
        socket.write(requestOf(head, submission))
      }),
    close: () => socket?.end(),
  }
}

function requestOf(head: string, { text, key }: Submission): string {
  const keyed = key === undefined ? '' : `\r\nIdempotency-Key: ${key}`
  return `${head}${keyed}\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`
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
