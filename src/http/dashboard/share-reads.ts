/** One read for all who ask within so many milliseconds of its beginning; one that fails is not kept. */
export function shareReads<T>(forMs: number, read: () => Promise<T>): () => Promise<T> {
  let latest: { readonly reading: Promise<T>; readonly until: number } | undefined
  return () => {
    const now = performance.now()
    if (latest !== undefined && now < latest.until) return latest.reading
    const reading = read()
    const mine = { reading, until: now + forMs }
    latest = mine
    reading.catch(() => {
      if (latest === mine) latest = undefined
    })
    return reading
  }
}
