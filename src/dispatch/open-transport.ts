import { type Clock, MACHINE_CLOCK } from '../database-clock.ts'
import { HttpClient, type HttpTimeouts } from './http/client.ts'
import { createApiTransport, type MailApi } from './http/mail-api.ts'
import { mailgunApi } from './http/mailgun.ts'
import { postmarkApi } from './http/postmark.ts'
import { resendApi } from './http/resend.ts'
import { sendGridApi } from './http/sendgrid.ts'
import { sesApi } from './http/ses.ts'
import { createSmtpTransport } from './smtp.ts'
import type { Transport } from './transport.ts'

export const TRANSPORTS = ['smtp', 'ses', 'sendgrid', 'mailgun', 'postmark', 'resend'] as const
export type TransportKind = (typeof TRANSPORTS)[number]

export type TransportSettings = {
  readonly transport: TransportKind
  /**
   * `smtp`: the URL of the relay; `sendgrid`, `postmark`, `resend`, `mailgun`: the API key;
   * `ses`: `ACCESS_KEY_ID:SECRET` or `ACCESS_KEY_ID:SECRET:SESSION_TOKEN`.
   */
  readonly credentials: string
  /** Instead of the provider's own, such as `https://api.eu.mailgun.net`; `http:` on this machine only. */
  readonly baseUrl?: string
  /** `ses`: `region`, `configuration_set`; `mailgun`: `domain`, `region` (`us` or `eu`); `postmark`: `message_stream`. */
  readonly options?: Readonly<Record<string, string>>
  /** A function where it changes while the transport is open. */
  readonly maxConnections: number | (() => number)
  readonly timeouts?: HttpTimeouts
  /** Signatures and the resets that providers name are about the true time. Absent: this machine's clock. */
  readonly clock?: Clock
}

export type SettingsFault =
  | 'bad_base_url'
  | 'bad_credentials'
  | 'bad_max_connections'
  | 'bad_option'
  | 'missing_option'
  | 'unknown_option'
  | 'unknown_transport'

/** Settings that no transport can be opened with. The message says what to change, and never repeats the credentials. */
export class TransportSettingsError extends Error {
  readonly code: SettingsFault
  readonly retryable = false

  constructor(code: SettingsFault, message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'TransportSettingsError'
    this.code = code
  }
}

/** @throws TransportSettingsError */
export function openTransport(settings: TransportSettings): Transport {
  const { transport, maxConnections, timeouts } = settings
  if (!(TRANSPORTS as readonly string[]).includes(transport)) {
    throw fault('unknown_transport', `The transport must be one of ${TRANSPORTS.join(', ')}`)
  }
  if (typeof maxConnections === 'number' && (!Number.isInteger(maxConnections) || maxConnections < 1)) {
    throw fault('bad_max_connections', 'The number of connections must be a whole number of at least 1')
  }
  if (transport === 'smtp') return openSmtp(settings)
  const { api, baseUrl } = openApi(transport, settings)
  const client = new HttpClient({ baseUrl, maxConnections, ...(timeouts === undefined ? {} : { timeouts }) })
  return createApiTransport(api, client, settings.clock ?? MACHINE_CLOCK)
}

function openSmtp(settings: TransportSettings): Transport {
  optionsOf(settings, [])
  if (settings.baseUrl !== undefined) {
    throw fault(
      'bad_base_url',
      'The transport smtp has no base URL: its credentials are the URL of the relay',
    )
  }
  try {
    return createSmtpTransport({ url: settings.credentials, maxConnections: settings.maxConnections })
  } catch (cause) {
    throw fault(
      'bad_credentials',
      cause instanceof Error ? cause.message : 'The SMTP URL cannot be read',
      cause,
    )
  }
}

/**
 * What is particular to a provider, and where it is.
 *
 * @throws TransportSettingsError
 */
export function openApi(
  transport: Exclude<TransportKind, 'smtp'>,
  settings: TransportSettings,
): { readonly api: MailApi; readonly baseUrl: URL } {
  switch (transport) {
    case 'ses':
      return openSes(settings)
    case 'mailgun':
      return openMailgun(settings)
    case 'sendgrid':
      optionsOf(settings, [])
      return {
        api: sendGridApi({ apiKey: apiKeyOf(settings) }),
        baseUrl: baseUrlOf(settings, 'https://api.sendgrid.com'),
      }
    case 'postmark': {
      const { message_stream: messageStream } = optionsOf(settings, ['message_stream'])
      const stream = messageStream === undefined ? {} : { messageStream }
      return {
        api: postmarkApi({ serverToken: apiKeyOf(settings), ...stream }),
        baseUrl: baseUrlOf(settings, 'https://api.postmarkapp.com'),
      }
    }
    case 'resend':
      optionsOf(settings, [])
      return {
        api: resendApi({ apiKey: apiKeyOf(settings) }),
        baseUrl: baseUrlOf(settings, 'https://api.resend.com'),
      }
  }
}

function openSes(settings: TransportSettings): { api: MailApi; baseUrl: URL } {
  const { region, configuration_set: configurationSet } = optionsOf(settings, ['region', 'configuration_set'])
  if (region === undefined) throw fault('missing_option', 'The transport ses needs the option `region`')
  if (!/^[a-z]{2}(?:-[a-z]+)+-\d{1,2}$/.test(region)) {
    throw fault('bad_option', 'The option `region` must be an AWS region, such as eu-west-1')
  }
  const [, accessKeyId, secretAccessKey, sessionToken] =
    /^([\w-]+):([!-9;-~]+)(?::([!-~]+))?$/.exec(settings.credentials) ?? []
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw fault(
      'bad_credentials',
      'The credentials of ses must be ACCESS_KEY_ID:SECRET or ACCESS_KEY_ID:SECRET:SESSION_TOKEN',
    )
  }
  const suffix = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com'
  const baseUrl = baseUrlOf(settings, `https://email.${region}.${suffix}`)
  const api = sesApi({
    baseUrl,
    region,
    accessKeyId,
    secretAccessKey,
    ...(sessionToken === undefined ? {} : { sessionToken }),
    ...(configurationSet === undefined ? {} : { configurationSet }),
    clock: settings.clock ?? MACHINE_CLOCK,
  })
  return { api, baseUrl }
}

function openMailgun(settings: TransportSettings): { api: MailApi; baseUrl: URL } {
  const { domain, region = 'us' } = optionsOf(settings, ['domain', 'region'])
  if (domain === undefined) throw fault('missing_option', 'The transport mailgun needs the option `domain`')
  if (!/^[A-Za-z0-9.-]{1,253}$/.test(domain))
    throw fault('bad_option', 'The option `domain` must be a domain name')
  if (region !== 'us' && region !== 'eu') throw fault('bad_option', 'The option `region` must be us or eu')
  const own = region === 'eu' ? 'https://api.eu.mailgun.net' : 'https://api.mailgun.net'
  return { api: mailgunApi({ apiKey: apiKeyOf(settings), domain }), baseUrl: baseUrlOf(settings, own) }
}

function optionsOf<const Name extends string>(
  { transport, options = {} }: TransportSettings,
  known: readonly Name[],
): Readonly<Partial<Record<Name, string>>> {
  for (const [name, value] of Object.entries(options)) {
    if (!(known as readonly string[]).includes(name)) {
      throw fault('unknown_option', `The transport ${transport} has no option \`${name}\``)
    }
    if (typeof value !== 'string' || !/^[!-~]{1,253}$/.test(value)) {
      throw fault('bad_option', `The option \`${name}\` must be text without spaces`)
    }
  }
  return options as Partial<Record<Name, string>>
}

/** It stands in a header, where a space or a line break would end it. */
function apiKeyOf({ transport, credentials }: TransportSettings): string {
  if (/^[!-~]+$/.test(credentials)) return credentials
  throw fault(
    'bad_credentials',
    `The credentials of ${transport} must be the API key, without spaces or line breaks`,
  )
}

function baseUrlOf({ baseUrl }: TransportSettings, own: string): URL {
  const url = URL.parse(baseUrl ?? own)
  const isLocal = ['localhost', '127.0.0.1', '[::1]'].includes(url?.hostname ?? '')
  if (url === null || (url.protocol !== 'https:' && !(url.protocol === 'http:' && isLocal))) {
    throw fault('bad_base_url', 'The base URL must begin with https:// (http:// for this machine only)')
  }
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    throw fault('bad_base_url', 'The base URL must have no user, password, query or fragment')
  }
  return url
}

function fault(code: SettingsFault, message: string, cause?: unknown): TransportSettingsError {
  return new TransportSettingsError(code, message, cause)
}
