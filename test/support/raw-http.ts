import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

export type RawAnswer = {
  /** Of all answers, in their order. */
  readonly statuses: readonly number[]
  readonly text: string
}

/** A connection to the server at this URL, and all that came over it so far. */
export async function openRaw(url: string): Promise<{ readonly socket: Socket; received(): string }> {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  let received = ''
  socket.on('data', (chunk) => {
    received += chunk.toString('latin1')
  })
  // The server hangs up in the middle; what it said before is looked at.
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  return { socket, received: () => received }
}

/**
 * Sends these bytes over a connection of their own, and behind them a request that asks for the end of it: all there will
 * be has come when the server closes.
 */
export async function exchange(url: string, bytes: string | Buffer): Promise<RawAnswer> {
  const { socket, received } = await openRaw(url)
  const closed = once(socket, 'close')
  socket.write(bytes)
  socket.write(LAST)
  await closed
  const text = received()
  return { text, statuses: [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status)) }
}

const LAST = 'GET /last HTTP/1.1\r\nHost: last.test\r\nConnection: close\r\n\r\n'
