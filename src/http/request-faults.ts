import type { IncomingMessage } from 'node:http'

export type RequestFault = { readonly status: number; readonly message: string }

/** RFC 9110 section 4.2.3, and the form in which clients send names of other alphabets; an IPv6 address is in brackets. */
const HOST = /^(?:[\w.-]+|\[[\da-f:.]+\])(?::(\d{1,5}))?$/i
const MAX_PORT = 65_535

/**
 * What node's parser lets pass and proxies disagree on, so that the one in front and we could see two different requests;
 * undefined for a request that is sound.
 */
export function faultOf({
  httpVersionMajor,
  rawHeaders,
  url = '',
}: IncomingMessage): RequestFault | undefined {
  if (httpVersionMajor !== 1) return { status: 505, message: 'The request is not HTTP/1.1.' }
  // RFC 9112 section 3.2.
  const hosts = rawHeaders.filter((name, place) => place % 2 === 0 && name.toLowerCase() === 'host')
  if (hosts.length !== 1) {
    return { status: 400, message: `The request has ${hosts.length} headers \`Host\`; send one.` }
  }
  const host = rawHeaders[rawHeaders.indexOf(hosts[0] ?? '') + 1] ?? ''
  const [isHost, port] = HOST.exec(host) ?? []
  if (isHost === undefined || Number(port ?? 0) > MAX_PORT) {
    return { status: 400, message: 'The header `Host` of the request is not a host.' }
  }
  return url.startsWith('/') || isAbsolute(url) ? undefined : NO_PATH
}

/** Also what is left of a target that only the URL parser finds wrong. */
export const NO_PATH: RequestFault = {
  status: 400,
  message: 'The request target is not a path, such as /emails.',
}

/** RFC 9112 section 3.2.2: as sent to a proxy, and to be understood by everybody. */
function isAbsolute(target: string): boolean {
  const url = URL.parse(target)
  return url !== null && /^https?:$/.test(url.protocol) && url.username === '' && url.password === ''
}
