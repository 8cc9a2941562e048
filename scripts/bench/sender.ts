/** What a developer writes to send one mail: render with liquidjs, send with nodemailer's pool. All contenders but Sluice use it. */
import { Liquid } from 'liquidjs'
import { createTransport } from 'nodemailer'
import { largeMail } from './large.ts'
import { FROM, HTML, type Order, order, SUBJECT, TEXT } from './order.ts'

const CONNECTIONS = 10
/** Enough that no connection ever waits for a mail, few enough that memory does not grow with the run. */
export const IN_HAND = 4 * CONNECTIONS

/** Templates are parsed once; the promise resolves when the sink has accepted the mail. */
export function createSender(smtpUrl: string): (order: Order) => Promise<unknown> {
  const transport = openPool(smtpUrl)
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

/** The nth order. */
export function createNumberedSender(smtpUrl: string): (n: number) => Promise<unknown> {
  const send = createSender(smtpUrl)
  return (n) => send(order(n))
}

/** The nth of the large mails, which have nothing to render. */
export function createLargeSender(smtpUrl: string): (n: number) => Promise<unknown> {
  const transport = openPool(smtpUrl)
  return (n) => transport.sendMail({ from: FROM, ...largeMail(n) })
}

function openPool(smtpUrl: string) {
  const { hostname, port } = new URL(smtpUrl)
  return createTransport({
    pool: true,
    maxConnections: CONNECTIONS,
    maxMessages: Number.POSITIVE_INFINITY,
    host: hostname,
    port: Number(port),
    ignoreTLS: true,
  })
}
