/**
 * A load generator that costs little: raw keep-alive connections, requests put together beforehand, one
 * request at a time on each, answers read no further than needed to know where they end.
 */
import { createConnection, type Socket } from 'node:net'
import { isWhole } from './http-answer.ts'
import type { LoadOrder, LoadReport } from './load.ts'
import { orderMessage } from './order.ts'
import { percentile } from './statistics.ts'

const BODIES = 200

type Tally = { readonly latenciesMs: number[]; readonly refused: Map<string, number>; broken: number }

function requestsFor({ url, key, isBuffered }: LoadOrder): Buffer[] {
  const { host } = new URL(url)
  return Array.from({ length: BODIES }, (_, n) => {
    const body = Buffer.from(orderMessage(n))
    const head = [
      'POST /emails HTTP/1.1',
      `Host: ${host}`,
      `Authorization: Bearer ${key}`,
      'Content-Type: application/json',
      `Content-Length: ${body.length}`,
      ...(isBuffered ? ['Sluice-Durability: buffered'] : []),
    ]
    return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), body])
  })
}

function drive(socket: Socket, requests: readonly Buffer[], first: number, untilMs: number, tally: Tally) {
  return new Promise<void>((resolve) => {
    let n = first
    let sentAt = 0
    let answer: Buffer = Buffer.alloc(0)
    const next = () => {
      if (performance.now() >= untilMs) return socket.end()
      n = (n + 1) % requests.length
      sentAt = performance.now()
      socket.write(requests[n] ?? '')
    }
    socket.on('data', (chunk) => {
      answer = answer.length === 0 ? chunk : Buffer.concat([answer, chunk])
      if (!isWhole(answer)) return
      const status = answer.toString('latin1', 9, 12)
      if (status === '200') tally.latenciesMs.push(performance.now() - sentAt)
      else tally.refused.set(status, (tally.refused.get(status) ?? 0) + 1)
      answer = Buffer.alloc(0)
      sentAt = 0
      next()
    })
    socket.on('error', () => socket.destroy())
    socket.on('close', () => {
      // The connection went while an answer was due: whether that mail was accepted is not known.
      if (sentAt !== 0) tally.broken += 1
      resolve()
    })
    next()
  })
}

function connect(url: string): Promise<Socket> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host: hostname, port: Number(port), noDelay: true }, () =>
      resolve(socket),
    )
    socket.once('error', reject)
  })
}

async function run(order: LoadOrder): Promise<LoadReport> {
  const requests = requestsFor(order)
  const sockets = await Promise.all(Array.from({ length: order.connections }, () => connect(order.url)))
  const tally: Tally = { latenciesMs: [], refused: new Map(), broken: 0 }
  const cpuBefore = process.cpuUsage()
  const startedAt = performance.now()
  const untilMs = startedAt + order.seconds * 1_000
  await Promise.all(sockets.map((socket, index) => drive(socket, requests, index, untilMs, tally)))
  const tookS = (performance.now() - startedAt) / 1_000
  const cpu = process.cpuUsage(cpuBefore)
  return {
    accepted: tally.latenciesMs.length,
    broken: tally.broken,
    refused: Object.fromEntries(tally.refused),
    perS: tally.latenciesMs.length / tookS,
    p50Ms: percentile(tally.latenciesMs, 50),
    p99Ms: percentile(tally.latenciesMs, 99),
    busy: (cpu.user + cpu.system) / 1e6 / tookS,
  }
}

process.on('message', (order: LoadOrder) => {
  void run(order).then((report) => process.send?.(report))
})
process.on('disconnect', () => process.exit(0))
