import { BlockList, isIP } from 'node:net'
import type { Context, MiddlewareHandler } from 'hono'
import type { GetConnInfo } from 'hono/conninfo'

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')

const LOCAL_HOST = /^(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?$/i

const READING_METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD'])

/**
 * Lets only this machine's own browser in; everything else is answered 403 with a sentence why. The peer's
 * address keeps other machines out when the service listens on more than loopback. The Host header keeps out
 * web sites whose name was rebound to 127.0.0.1. The origin keeps other sites from posting forms here.
 */
export function localOnly(getConnInfo: GetConnInfo): MiddlewareHandler {
  return async function localOnly(c, next) {
    const reason = refusalReason(c, getConnInfo(c).remote.address)
    if (reason !== undefined) return c.text(`${reason}\n`, 403)
    await next()
    return undefined
  }
}

function refusalReason(c: Context, peer: string | undefined): string | undefined {
  if (!isLoopback(peer)) {
    return 'The inbox is shown only to the machine the service runs on; open it there, or through an SSH tunnel.'
  }
  if (!LOCAL_HOST.test(c.req.header('host') ?? '')) {
    return 'The inbox answers only to the host names localhost, 127.0.0.1 and [::1]; open it under one of these.'
  }
  if (!READING_METHODS.has(c.req.method) && !isSameOrigin(c)) {
    return 'This changes the inbox and did not come from one of its own pages; use the button there.'
  }
  return undefined
}

/** Addresses as a socket reports them; `BlockList` also sees through IPv4-mapped IPv6 (`::ffff:127.0.0.1`). */
function isLoopback(address: string | undefined): boolean {
  const family = isIP(address ?? '')
  if (address === undefined || family === 0) return false
  return LOOPBACK.check(address, family === 6 ? 'ipv6' : 'ipv4')
}

/** Browsers send one of the two headers with every POST; where both are there, both must agree. */
function isSameOrigin(c: Context): boolean {
  const site = c.req.header('sec-fetch-site')
  const origin = c.req.header('origin')
  if (site === undefined && origin === undefined) return false
  const siteAgrees = site === undefined || site === 'same-origin'
  const originAgrees = origin === undefined || origin === `http://${c.req.header('host')}`
  return siteAgrees && originAgrees
}
