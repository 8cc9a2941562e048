import { BlockList, isIP } from 'node:net'

/** Ranges as `network/prefix`; the registries are at iana.org/assignments/iana-ipv4-special-registry and -ipv6-. */
const PRIVATE = [
  ...['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'], // RFC 1918
  '100.64.0.0/10', // carrier-grade NAT, RFC 6598
  '127.0.0.0/8',
  '::1/128',
  'fc00::/7', // unique local, RFC 4193
]

/** Never an address to send a request to, not even in a network of one's own. */
const NEVER = [
  '0.0.0.0/8', // "this network": Linux takes it for itself
  '169.254.0.0/16', // link-local, and the metadata service of most clouds
  '100.100.100.200/32', // metadata, Alibaba
  '168.63.129.16/32', // platform services, Azure
  'fd00:ec2::/32', // metadata, AWS
  '192.0.0.0/24', // IETF protocol assignments; metadata, Oracle
  ...['192.0.2.0/24', '198.51.100.0/24', '203.0.113.0/24'], // documentation
  '192.88.99.0/24', // 6to4 relays
  '198.18.0.0/15', // benchmarks
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, broadcast
  '2001::/23', // IETF protocol assignments: Teredo, ORCHID
  '2001:db8::/32', // documentation
  '2002::/16', // 6to4: an IPv4 address inside
  '3fff::/20', // documentation
]

/** All that is routed in the IPv6 internet. Outside are IPv4-mapped, NAT64, link-local, site-local, multicast. */
const GLOBAL_UNICAST = ['2000::/3']

const isPrivate = listOf(PRIVATE)
const isPrivateIpv6 = listOf(PRIVATE.filter((range) => range.includes(':')))
const isNever = listOf(NEVER)
const isGlobal = listOf(GLOBAL_UNICAST)

export type Reach = 'public' | 'private' | 'never'

/**
 * Where an IP address lies: in the internet, in a network of one's own, or nowhere that may be asked for anything. What is
 * no address, or one of a link by its zone (`fe80::1%eth0`), is the last.
 */
export function reachOf(address: string): Reach {
  const family = isIP(address)
  if (family === 0 || address.includes('%')) return 'never'
  const type = family === 6 ? 'ipv6' : 'ipv4'
  if (isNever.check(address, type)) return 'never'
  // The list takes an IPv4-mapped address for the IPv4 address inside, whose connection this would not be.
  if (type === 'ipv6' && !isGlobal.check(address, type) && !isPrivateIpv6.check(address, type)) return 'never'
  return isPrivate.check(address, type) ? 'private' : 'public'
}

function listOf(ranges: readonly string[]): BlockList {
  const list = new BlockList()
  for (const range of ranges) {
    const [network = '', prefix] = range.split('/')
    list.addSubnet(network, Number(prefix), network.includes(':') ? 'ipv6' : 'ipv4')
  }
  return list
}
