/** What a developer writes to send one mail: render with liquidjs, send with nodemailer's pool. All contenders but Sluice use it. */
import { Liquid } from 'liquidjs'
import { createTransport } from 'nodemailer'
import { FROM, HTML, type Order, SUBJECT, TEXT } from './order.ts'

export const CONNECTIONS = 10
/** Enough that no connection ever waits for a mail, few enough that memory does not grow with the run. */
export const IN_HAND = 4 * CONNECTIONS

/** Templates are parsed once; the promise resolves when the sink has accepted the mail. */
export function createSender(smtpUrl: string): (order: Order) => Promise<unknown> {
  const { hostname, port } = new URL(smtpUrl)
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
  return ({ to, variables }) =>
    transport.sendMail({
      from: FROM,
      to,
      subject: plain.renderSync(subject, variables),
      html: escaping.renderSync(html, variables),
      text: plain.renderSync(text, variables),
    })
}
