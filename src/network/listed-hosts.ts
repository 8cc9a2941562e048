/** One host that an operator allows to be asked for something: an entry of SLUICE_ATTACHMENT_HOSTS. */
export type ListedHost = {
  /** `http:` only where the entry says so: an intranet or a test, whose addresses may be private. */
  readonly protocol: 'https:' | 'http:'
  /** As a URL has it: lower case, an internationalised name in its xn-- form. */
  readonly hostname: string
  /** True for `*.example.com`: every name below, and not the name itself. */
  readonly isWildcard: boolean
  readonly port: number
}

const DEFAULT_PORT = { 'https:': 443, 'http:': 80 } as const

/** Reads `files.example.com`, `*.example.com:8443` or `http://intranet:8080`; undefined when it is none of them. */
export function parseListedHost(text: string): ListedHost | undefined {
  const entry = /^(https?:\/\/)?(\*\.)?([^*/?#@\s]+)$/i.exec(text.trim())
  if (entry === null) return undefined
  const [, scheme = 'https://', wildcard, host] = entry
  const url = URL.parse(`${scheme}${host}`)
  if (url === null || url.hostname === '') return undefined
  const protocol = url.protocol === 'http:' ? 'http:' : 'https:'
  return {
    protocol,
    hostname: url.hostname,
    isWildcard: wildcard !== undefined,
    port: portOf(url),
  }
}

/** The entry that allows this URL, if there is one: scheme, host and port all have to fit. */
export function findListedHost(hosts: readonly ListedHost[], url: URL): ListedHost | undefined {
  return hosts.find(
    ({ protocol, hostname, isWildcard, port }) =>
      url.protocol === protocol &&
      portOf(url) === port &&
      (isWildcard ? url.hostname.endsWith(`.${hostname}`) : url.hostname === hostname),
  )
}

/** A URL leaves its scheme's own port out. */
export function portOf(url: URL): number {
  if (url.port !== '') return Number(url.port)
  return url.protocol === 'http:' ? DEFAULT_PORT['http:'] : DEFAULT_PORT['https:']
}
