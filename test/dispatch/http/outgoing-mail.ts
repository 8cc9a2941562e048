import type { TestContext } from 'node:test'
import type { OutgoingMail } from '../../../src/dispatch/compose.ts'
import { openTransport, type TransportSettings } from '../../../src/dispatch/open-transport.ts'
import type { Envelope, Outgoing, SendOutcome, Transport } from '../../../src/dispatch/transport.ts'
import {
  STAND_IN_AWS,
  STAND_IN_DOMAIN,
  STAND_IN_KEY,
  STAND_IN_REGION,
  type StandInProvider,
} from '../../support/provider-rules.ts'

export const PROVIDERS = ['ses', 'sendgrid', 'mailgun', 'postmark', 'resend'] as const

export const MAIL: OutgoingMail = {
  id: '0199b1a2-7c1e-7000-8000-000000000001',
  messageId: '<0199b1a2-7c1e-7000-8000-000000000001@shop.test>',
  date: new Date(0),
  from: { address: 'shop@shop.test', name: 'Shop, "The"' },
  to: [{ address: 'Ann@mail.test', name: 'Ann' }],
  cc: [{ address: 'cc@mail.test' }],
  replyTo: [{ address: 'help@shop.test', name: 'Help' }],
  subject: 'Größe',
  headers: { 'X-Order': '17' },
  html: '<p>Hällo</p>',
  text: 'Hällo',
}

export function outgoing(mail: Partial<OutgoingMail> = {}, envelope: Partial<Envelope> = {}): Outgoing {
  const to = ['Ann@mail.test', 'cc@mail.test', 'hidden@mail.test']
  return { mail: { ...MAIL, ...mail }, envelope: { from: 'shop@shop.test', to, ...envelope } }
}

/** To one recipient, with an id of its own. */
export function toOne(number: number, address = `user${number}@mail.test`): Outgoing {
  const id = `0199b1a2-7c1e-7000-8000-${String(number).padStart(12, '0')}`
  const mail = {
    id,
    messageId: `<${id}@shop.test>`,
    to: [{ address }],
    cc: [],
    html: '<p>Hi</p>',
    text: 'Hi',
  }
  return outgoing(mail, { to: [address] })
}

export function openFor(
  t: TestContext,
  provider: StandInProvider,
  baseUrl: string,
  settings: Partial<TransportSettings> = {},
): Transport {
  const credentials = provider === 'ses' ? `${STAND_IN_AWS.id}:${STAND_IN_AWS.secret}` : STAND_IN_KEY
  const options =
    provider === 'ses'
      ? { region: STAND_IN_REGION }
      : provider === 'mailgun'
        ? { domain: STAND_IN_DOMAIN }
        : {}
  const transport = openTransport({
    transport: provider,
    credentials,
    baseUrl,
    options,
    maxConnections: 2,
    ...settings,
  })
  t.after(() => transport.close())
  return transport
}

export function verdict(outcome: SendOutcome | undefined): string {
  if (outcome === undefined) return 'none'
  return outcome.kind === 'accepted' ? 'accepted' : `${outcome.kind} ${outcome.code}`
}
