/** Failed authentications from one address in one minute, before the next ones are turned away unseen. */
const MAX_FAILURES = 60
const WINDOW_MS = 60_000
const MAX_NETWORKS = 10_000

/**
 * Counts failed authentications by address, in the memory of this process: guessing keys must not keep the
 * database busy. Behind a proxy everybody has its address, so whoever brings a key that was right before is let
 * through all the same (see authenticate).
 */
export class FailedAttempts {
  readonly #now: () => number
  /** All windows are equally long, so the eldest is first. */
  readonly #windows = new Map<string, { failures: number; readonly until: number }>()

  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  /** Seconds until this address may try again; undefined while it may. */
  retryAfterS(address: string): number | undefined {
    const window = this.#windows.get(networkOf(address))
    const leftMs = (window?.until ?? 0) - this.#now()
    if (window === undefined || leftMs <= 0 || window.failures < MAX_FAILURES) return undefined
    return Math.ceil(leftMs / 1_000)
  }

  note(address: string): void {
    const network = networkOf(address)
    const now = this.#now()
    const window = this.#windows.get(network)
    if (window !== undefined && window.until > now) {
      window.failures += 1
      return
    }
    this.#windows.delete(network)
    this.#dropOld(now)
    this.#windows.set(network, { failures: 1, until: now + WINDOW_MS })
  }

  #dropOld(now: number): void {
    for (const [network, { until }] of this.#windows) {
      if (until > now && this.#windows.size < MAX_NETWORKS) return
      this.#windows.delete(network)
    }
  }
}

/** An IPv4 address, or the /64 that one IPv6 customer has all addresses of (RFC 6177). */
export function networkOf(address: string): string {
  const [, mapped] = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address) ?? []
  if (mapped !== undefined) return mapped
  if (!address.includes(':')) return address
  const [head = '', tail] = address.toLowerCase().split('::')
  const groups = head === '' ? [] : head.split(':')
  const last = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : Math.max(8 - groups.length - last.length, 0)
  return [...groups, ...Array<string>(zeros).fill('0'), ...last].slice(0, 4).join(':')
}
