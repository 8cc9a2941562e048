/** The three kinds of mail of the burst; which one a mail is, and its number, can be read off its recipient. */
import { FROM, order, TEMPLATE_NAME } from '../order.ts'

export const KINDS = ['order', 'reset', 'news'] as const
export type Kind = (typeof KINDS)[number]

/** A stream of their own, less urgent than `transactional` (3) and more than `marketing` (7). */
export const ORDERS = { name: 'orders', priority: 5 } as const
export const NEWS_STREAM = 'marketing'

export const RESET_TEMPLATE = {
  name: 'password-reset',
  subject: 'Reset your password at {{ shop }}',
  html: '<p>Hello {{ name }},</p><p><a href="https://shop.example/reset/{{ token }}">Choose a new password</a> within {{ minutes }} minutes.</p>',
  text: 'Hello {{ name }},\n\nhttps://shop.example/reset/{{ token }} ({{ minutes }} minutes)',
}

const RECIPIENT = /<(order|reset|news)-(\d+)@/

/** Of a line `RCPT TO:<order-17@mail.example>`; undefined when it is none of ours. */
export function readRecipient(line: string): { readonly kind: Kind; readonly n: number } | undefined {
  const [, kind, n] = RECIPIENT.exec(line) ?? []
  return kind === undefined ? undefined : { kind: kind as Kind, n: Number(n) }
}

/** `apart`: orders have a stream of their own. `together`: both are transactional, and a reset says that it is urgent. */
export type Streams = 'apart' | 'together'

/** The nth mail of its kind, as JSON of `POST /emails` and of `mail.outbox`. */
export function mailText(kind: Kind, n: number, streams: Streams): string {
  const from = `${FROM.name} <${FROM.address}>`
  const to = [`${kind}-${n}@mail.example`]
  switch (kind) {
    case 'order': {
      const template = { id: TEMPLATE_NAME, variables: order(n).variables }
      return JSON.stringify({ from, to, template, ...(streams === 'apart' && { stream: ORDERS.name }) })
    }
    case 'reset': {
      const variables = {
        shop: 'Example Shop',
        name: `Ann ${n}`,
        token: `t${n}`.padEnd(32, 'x'),
        minutes: 30,
      }
      const template = { id: RESET_TEMPLATE.name, variables }
      return JSON.stringify({ from, to, template, ...(streams === 'together' && { priority: 0 }) })
    }
    case 'news':
      return JSON.stringify({
        from,
        to,
        stream: NEWS_STREAM,
        subject: 'Tea of the month',
        html: '<h1>Tea of the month</h1><p>Darjeeling, first flush, while it lasts.</p>',
      })
  }
}
