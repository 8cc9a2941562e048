/** So many a Map takes before it begins anew: some 100 small requests come between two collections of young objects. */
const FEW = 64

/**
 * A Map for what comes and goes all the time. A plain one that is filled and emptied again and again outgrows its tables, and links each of
 * them to the next one; once the first has become old, they hold one another, and all that was in them then, long deleted, until V8
 * collects its whole heap (docs/performance.md). This one moves what is left into another Map: one that becomes old all the same, with
 * larger requests or more that wait, holds what came to it alone.
 */
export class BriefMap<K, V> {
  #entries = new Map<K, V>()
  #added = 0

  get(key: K): V | undefined {
    return this.#entries.get(key)
  }

  has(key: K): boolean {
    return this.#entries.has(key)
  }

  set(key: K, value: V): void {
    // Never more to move than came since the last time.
    if (this.#added >= Math.max(FEW, this.#entries.size)) {
      this.#entries = new Map(this.#entries)
      this.#added = 0
    }
    this.#entries.set(key, value)
    this.#added += 1
  }

  delete(key: K): boolean {
    return this.#entries.delete(key)
  }

  /** In the order in which they came, as long as nothing is set meanwhile. */
  values(): MapIterator<V> {
    return this.#entries.values()
  }
}
