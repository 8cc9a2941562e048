/**
 * What a developer writes without a queue: render with liquidjs, send with nodemailer's pool, as fast as
 * both go. Nothing is stored, nothing survives a crash; the floor that Sluice is compared with.
 */
import { Liquid } from 'liquidjs'
import { createTransport } from 'nodemailer'
import type { BareOrder, BareReport } from './bare-loop.ts'
import { FROM, HTML, order, SUBJECT, TEXT } from './order.ts'

const CONNECTIONS = 10
/** Enough that no connection ever waits for a mail, few enough that memory does not grow with the run. */
const IN_HAND = 4 * CONNECTIONS

const [url = ''] = process.argv.slice(2)
const { hostname, port } = new URL(url)
const transport = createTransport({
  pool: true,
  maxConnections: CONNECTIONS,
  maxMessages: Number.POSITIVE_INFINITY,
  host: hostname,
  port: Number(port),
  ignoreTLS: true,
})

const plain = new Liquid()
const escaping = new Liquid({ outputEscape: 'escape' })
const subject = plain.parse(SUBJECT)
const html = escaping.parse(HTML)
const text = plain.parse(TEXT)

async function sendOne(n: number): Promise<void> {
  const { to, variables } = order(n)
  await transport.sendMail({
    from: FROM,
    to,
    subject: plain.renderSync(subject, variables),
    html: escaping.renderSync(html, variables),
    text: plain.renderSync(text, variables),
  })
}

async function sendAll(first: number, count: number): Promise<void> {
  let next = first
  const lane = async () => {
    while (next < first + count) {
      const n = next
      next += 1
      await sendOne(n)
    }
  }
  await Promise.all(Array.from({ length: IN_HAND }, lane))
}

process.on('message', ({ first, count }: BareOrder) => {
  const startedAtNs = String(process.hrtime.bigint())
  void sendAll(first, count).then(() => process.send?.({ startedAtNs } satisfies BareReport))
})
process.on('disconnect', () => process.exit(0))
