import { type KeyObject, X509Certificate } from 'node:crypto'
import type { PinnedFetch } from '../pinned-fetch.ts'

const LIMITS = { maxBytes: 16 * 1_024, timeoutMs: 5_000 }
/** A topic uses one certificate, and the next one when that grows old. */
const MAX_KEPT = 16
/** More than this at once are not asked of Amazon, whoever wants us to. */
const MAX_FETCHES = 4
const MIN_KEY_BITS = 2_048

/** RFC 7468. */
const PEM = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g
/** sns.amazonaws.com, sns.eu-west-1.…, sns-signing.me-south-1.…, sns-cn-north-1.amazonaws.com.cn: the names of its signers by region. */
const SIGNER = /^sns(?:-signing)?(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?$/

export type SigningKey =
  | { readonly kind: 'usable'; readonly key: KeyObject }
  | { readonly kind: 'unusable' }
  | { readonly kind: 'unreachable' }

/**
 * The certificates SNS signs with, by the exact address they were fetched from. That they come from Amazon's own
 * host over TLS is what proves them; Amazon serves the leaf alone, so that there is seldom a chain to follow.
 */
export class SnsCertificates {
  readonly #fetch: PinnedFetch
  readonly #kept = new Map<string, readonly X509Certificate[]>()
  readonly #underWay = new Map<string, Promise<readonly X509Certificate[] | 'unusable' | 'unreachable'>>()

  constructor(fetch: PinnedFetch) {
    this.#fetch = fetch
  }

  /** `url` has to be one that was checked: it is fetched as it is. */
  async keyAt(url: string, now: Date): Promise<SigningKey> {
    const chain = this.#kept.get(url) ?? (await this.#fetchOnce(url))
    if (typeof chain === 'string') return { kind: chain }
    const [leaf] = chain
    if (leaf === undefined || !isTrusted(chain, now)) return { kind: 'unusable' }
    return { kind: 'usable', key: leaf.publicKey }
  }

  async #fetchOnce(url: string): Promise<readonly X509Certificate[] | 'unusable' | 'unreachable'> {
    const underWay = this.#underWay.get(url)
    if (underWay !== undefined) return underWay
    if (this.#underWay.size >= MAX_FETCHES) return 'unreachable'
    const fetching = this.#fetchChain(url).finally(() => this.#underWay.delete(url))
    this.#underWay.set(url, fetching)
    return fetching
  }

  async #fetchChain(url: string): Promise<readonly X509Certificate[] | 'unusable' | 'unreachable'> {
    const fetched = await this.#fetch(url, LIMITS)
    if (fetched.kind !== 'answered') return fetched.kind
    if (fetched.status === 429 || fetched.status >= 500) return 'unreachable'
    if (fetched.status !== 200) return 'unusable'
    const chain = readChain(fetched.body)
    if (chain.length === 0) return 'unusable'
    const [oldest] = this.#kept.keys()
    if (this.#kept.size >= MAX_KEPT && oldest !== undefined) this.#kept.delete(oldest)
    this.#kept.set(url, chain)
    return chain
  }
}

function readChain(text: string): X509Certificate[] {
  try {
    return (text.match(PEM) ?? []).map((pem) => new X509Certificate(pem))
  } catch {
    // Whatever OpenSSL says of it: no certificate.
    return []
  }
}

/** Dates of all, the signer's name and key, and each signed by the next as far as the chain goes. */
function isTrusted(chain: readonly X509Certificate[], now: Date): boolean {
  const [leaf] = chain
  if (leaf === undefined || !namesOf(leaf).some((name) => SIGNER.test(name))) return false
  const { asymmetricKeyType, asymmetricKeyDetails } = leaf.publicKey
  if (asymmetricKeyType !== 'rsa' || (asymmetricKeyDetails?.modulusLength ?? 0) < MIN_KEY_BITS) return false
  return chain.every((certificate, index) => {
    const issuer = chain[index + 1]
    return (
      certificate.validFromDate <= now &&
      now <= certificate.validToDate &&
      (issuer === undefined ||
        (issuer.ca && certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey)))
    )
  })
}

/** RFC 6125 section 6.4.4: the common name counts only where there are no alternative names. */
function namesOf({ subject, subjectAltName }: X509Certificate): string[] {
  if (subjectAltName !== undefined) {
    return subjectAltName.split(', ').flatMap((name) => (name.startsWith('DNS:') ? [name.slice(4)] : []))
  }
  return subject.split('\n').flatMap((part) => (part.startsWith('CN=') ? [part.slice(3)] : []))
}
