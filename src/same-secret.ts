import { hash, timingSafeEqual } from 'node:crypto'

/**
 * Compares what somebody brought with what is right. The one way to do so in this service (a test looks for others): it
 * compares digests, which have one length, so that the time it takes tells nothing of either side.
 */
export function isSameSecret(given: string | Buffer, right: string | Buffer): boolean {
  return isSameDigest(hash('sha256', given, 'buffer'), hash('sha256', right, 'buffer'))
}

/** Of two SHA-256 digests that are at hand already. */
export function isSameDigest(given: Buffer, right: Buffer): boolean {
  return timingSafeEqual(given, right)
}
