import type { TRANSPORT_NAMES } from '../catalog.ts'
import type { Config } from '../config.ts'
import { type Probe, probeTransport } from '../dispatch/probe.ts'
import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { duration } from './words.ts'

/** Whether each provider would take mail from here and now, found out without sending any. */

export type ProviderRow = {
  readonly name: string
  readonly transport: (typeof TRANSPORT_NAMES)[number]
  readonly credentials_env: string | null
  readonly base_url: string | null
  readonly options: Readonly<Record<string, string>>
  /** Why nothing may go to it now; null when it may. */
  readonly held: string | null
}

type Settings = Pick<Config, 'environment' | 'isProduction'>

const PROBE_MS = 10_000
const CERTIFICATE_DAYS = 14

export async function readProviders({ ask }: Reader): Promise<ProviderRow[]> {
  return ask<ProviderRow>(`/* doctor.providers */
    select
      p.name, p.transport, p.credentials_env, p.base_url, p.options,
      case
        when s.unusable_reason is not null then 'a worker could not open it: ' || s.unusable_reason
        when p.paused_at is not null then 'paused by ' || coalesce(p.paused_by, 'somebody')
        when s.breaker = 'open' then 'its breaker is open: ' || coalesce(s.breaker_reason, 'too many faults')
        when s.blocked_until > now() then 'it asked for silence: ' || coalesce(s.blocked_reason, 'until later')
      end as held
    from mail.provider p
    left join mail.provider_state s on s.provider = p.name
    order by p.name`)
}

/** What `start` would make of the environment in a database that has no providers yet. */
export function providersOf({ smtpUrl }: Pick<Config, 'smtpUrl'>): ProviderRow[] {
  const transport = smtpUrl === undefined ? 'inbox' : 'smtp'
  const credentials = smtpUrl === undefined ? null : 'SMTP_URL'
  const rest = { base_url: null, options: {}, held: null }
  return [{ name: 'default', transport, credentials_env: credentials, ...rest }]
}

export async function checkProvider(provider: ProviderRow, settings: Settings): Promise<Finding[]> {
  const name = `provider ${provider.name}`
  const held = provider.held === null ? [] : [heldOf(name, provider)]
  if (provider.transport === 'inbox') return [inboxOf(name, settings), ...held]
  const variable = provider.credentials_env ?? ''
  const credentials = settings.environment[variable]
  if (credentials === undefined || credentials === '') {
    const found = `the variable ${variable}, which holds its credentials, is not set here`
    return [problem(name, found, `set ${variable} for every process with the role worker`), ...held]
  }
  const probe = await probeTransport(
    {
      transport: provider.transport,
      credentials,
      options: provider.options,
      ...(provider.base_url === null ? {} : { baseUrl: provider.base_url }),
    },
    PROBE_MS,
  )
  return [
    probeOf(name, probe, variable),
    ...certificateOf(name, probe),
    ...plainOf(name, credentials, probe),
    ...held,
  ]
}

function heldOf(name: string, { name: provider, held }: ProviderRow): Finding {
  const advice = `select * from mail.provider_status where provider = '${provider}'; select mail.resume('${provider}', 'provider') ends a pause`
  return warning(`${name}, now`, `nothing goes to it: ${held}`, advice)
}

function inboxOf(name: string, { isProduction }: Settings): Finding {
  if (!isProduction) return ok(name, 'the local inbox: mail stays here, and nobody gets it')
  return problem(name, 'the local inbox, which is refused when NODE_ENV=production', 'set SMTP_URL')
}

function probeOf(name: string, { verdict, code = '', words }: Probe, variable: string): Finding {
  if (verdict === 'usable') return ok(name, words)
  if (verdict === 'unclear')
    return warning(name, words, 'send one message to yourself, and look at its timeline')
  return problem(name, code === '' ? words : `${code}: ${words}`, adviceFor(code, variable))
}

/** By the codes of an outcome (dispatch/transport.ts). */
function adviceFor(code: string, variable: string): string {
  switch (code) {
    case 'dns_failed':
      return `correct the host in ${variable} or base_url, or repair the name service of this machine`
    case 'connect_failed':
    case 'timed_out':
      return 'check host and port, and whether this network lets the connection out (many block port 25)'
    case 'tls_failed':
      return 'use the name that the certificate is for; for a relay of your own with a private one, tls_verify=false in its URL'
    case 'auth_failed':
      return `put valid credentials into ${variable}, percent-encoded where it is a URL`
    case 'auth_needs_tls':
      return 'use the port on which the relay offers STARTTLS (587), or smtps:// (465)'
    case 'auth_unavailable':
      return `take user and password out of ${variable}, or use the port for submission (587)`
    default:
      return 'correct the row in mail.provider, or the variable it names; see docs/providers.md'
  }
}

export function certificateOf(name: string, { certificate }: Pick<Probe, 'certificate'>): Finding[] {
  if (certificate === undefined) return []
  const left = (certificate.expiresAt.getTime() - Date.now()) / 1_000
  const whose = `${name}, certificate`
  const found = `${certificate.name}, ends ${left < 0 ? `${duration(-left)} ago` : `in ${duration(left)}`}`
  if (left > CERTIFICATE_DAYS * 86_400) return [ok(whose, found)]
  return [warning(whose, found, 'have it renewed: from then on nothing is sent there')]
}

const LOOPBACK = /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/

/** Only a relay can be spoken to in the clear: a base URL is https, or of this machine. */
export function plainOf(
  name: string,
  credentials: string,
  { verdict, isEncrypted }: Pick<Probe, 'verdict' | 'isEncrypted'>,
): Finding[] {
  const host = URL.parse(credentials)?.hostname ?? ''
  if (verdict !== 'usable' || isEncrypted || LOOPBACK.test(host) || host === '') return []
  const found = `mail goes to ${host} without encryption`
  return [warning(`${name}, encryption`, found, 'add tls=required to the URL, or use smtps://')]
}
