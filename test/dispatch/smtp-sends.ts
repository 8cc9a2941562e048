import type { Socket } from 'node:net'
import type { TestContext } from 'node:test'
import type { OutgoingMail } from '../../src/dispatch/compose.ts'
import { createSmtpTransport, type SmtpOptions } from '../../src/dispatch/smtp.ts'
import type { Outgoing, SendOutcome, Transport } from '../../src/dispatch/transport.ts'
import { POLITE } from '../support/smtp-sink.ts'

export const ENVELOPE = { from: 'shop@shop.test', to: ['ann@mail.test'] }
export const MAIL: OutgoingMail = {
  id: '0199b1a2-7c1e-7000-8000-000000000001',
  messageId: '<1@shop.test>',
  date: new Date(0),
  from: { address: 'shop@shop.test' },
  to: [{ address: 'shown@mail.test' }],
  cc: [],
  replyTo: [],
  subject: 'Hi',
  headers: {},
  text: 'Hello',
}
export const OUTGOING: Outgoing = { mail: MAIL, envelope: ENVELOPE }
/** Short, because a few tests wait for them; all others end by an answer. */
export const SHORT = 'connect_timeout_s=0.3&greeting_timeout_s=0.2&socket_timeout_s=0.2'

const { greeting, mail, recipient, data, content } = POLITE
/** The polite dialogue up to, and not including, a step. */
export const before = {
  mail: greeting,
  recipient: [...greeting, ...mail],
  data: [...greeting, ...mail, ...recipient],
}
export const asked = [...before.data, ...data]
export const handedOver = [...asked, ...content]
export const hangUp = (socket: Socket) => socket.end()
export const reset = (socket: Socket) => socket.resetAndDestroy()

export function connect(t: TestContext, options: Partial<SmtpOptions> & { url: string }): Transport {
  const transport = createSmtpTransport({ maxConnections: 2, ...options })
  t.after(() => transport.close())
  return transport
}

export function verdict(outcome: SendOutcome): string {
  return outcome.kind === 'accepted' ? 'accepted' : `${outcome.kind} ${outcome.code}`
}
