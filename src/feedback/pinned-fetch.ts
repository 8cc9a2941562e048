/**
 * GET for the few addresses that we make ourselves from pinned parts. Follows no redirect, reads no more than it
 * was told to, and never rejects.
 */
export type PinnedFetch = (url: string, limits: FetchLimits) => Promise<Fetched>

export type FetchLimits = { readonly maxBytes: number; readonly timeoutMs: number }

export type Fetched =
  /** `body` is undefined when it was larger than allowed. */
  | { readonly kind: 'answered'; readonly status: number; readonly body: string | undefined }
  | { readonly kind: 'unreachable'; readonly error: unknown }

export function createPinnedFetch(fetch: typeof globalThis.fetch): PinnedFetch {
  return async (url, { maxBytes, timeoutMs }) => {
    if (!url.startsWith('https://'))
      return { kind: 'unreachable', error: new TypeError('only https is fetched') }
    try {
      const response = await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(timeoutMs) })
      return { kind: 'answered', status: response.status, body: await readUpTo(response, maxBytes) }
    } catch (error) {
      return { kind: 'unreachable', error }
    }
  }
}

async function readUpTo(response: Response, maxBytes: number): Promise<string | undefined> {
  const chunks: Uint8Array[] = []
  let size = 0
  // Leaving the loop cancels the rest of the body.
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength
    if (size > maxBytes) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
