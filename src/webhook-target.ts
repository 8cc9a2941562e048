import { isIP } from 'node:net'
import { findListedHost, type ListedHost, portOf } from './network/listed-hosts.ts'
import { reachOf } from './network/public-addresses.ts'

/** How far the guard is to be opened for a URL (see guarded-fetch.ts). */
export type WebhookTarget =
  | {
      readonly ok: true
      readonly allowHttp: boolean
      readonly allowPrivate: boolean
      readonly ports: readonly number[]
    }
  /** `reason` is the rest of a sentence: why the URL is refused, and what would be right. */
  | { readonly ok: false; readonly reason: string }

const PORTS = [443, 8443]

/**
 * Where webhooks may go: anywhere in the internet over https, and to the hosts that SLUICE_WEBHOOK_HOSTS lists, in
 * private networks too. A name is looked up, and its addresses are checked, at each request and not here.
 */
export function webhookTarget(text: string, hosts: readonly ListedHost[]): WebhookTarget {
  const url = URL.parse(text)
  if (url === null) return refused('it is not a URL; use one like https://app.example.com/webhooks')
  if (url.username !== '' || url.password !== '') {
    return refused('it has a user name or password in it; requests are signed, check the signature instead')
  }
  const listed = findListedHost(hosts, url)
  if (listed !== undefined) {
    return { ok: true, allowHttp: url.protocol === 'http:', allowPrivate: true, ports: [listed.port] }
  }
  if (url.protocol !== 'https:') {
    return refused(
      'it is not https:; a host of your own that has no https must be listed in SLUICE_WEBHOOK_HOSTS',
    )
  }
  if (!PORTS.includes(portOf(url))) {
    return refused(
      `port ${portOf(url)} is not allowed; use 443 or 8443, or list the host in SLUICE_WEBHOOK_HOSTS`,
    )
  }
  const address = url.hostname.replace(/^\[(.*)\]$/, '$1')
  if (isIP(address) !== 0 && reachOf(address) !== 'public') {
    return refused('its address is not public; a host of your own must be listed in SLUICE_WEBHOOK_HOSTS')
  }
  return { ok: true, allowHttp: false, allowPrivate: false, ports: PORTS }
}

function refused(reason: string): WebhookTarget {
  return { ok: false, reason }
}
