/**
 * What became of each message of a run, in the words of Jepsen's queue checker. A message is known by its key from
 * before it is handed over, so that one whose answer was lost is known as well; its key is its recipient.
 */
export type Verdict = {
  /** Messages somebody tried to hand over. */
  readonly attempted: number
  /** Those of them with an answer that says they are accepted. */
  readonly acknowledged: number
  /** Different messages that the sink accepted. */
  readonly delivered: number
  /** Acknowledged, not delivered, and in no end that a person can see. Any is a broken promise. */
  readonly lost: readonly string[]
  /** Copies beyond the first of each message. */
  readonly duplicated: number
  /** Delivered, and never handed over by anybody. */
  readonly unexpected: readonly string[]
  /** Delivered, though the answer never came. */
  readonly recovered: number
  /** Acknowledged, not delivered, and where a person can see it: dead, unknown, suppressed, canceled. */
  readonly setAside: number
  /** What stood still and should have moved, a sentence each. Any is a broken promise. */
  readonly stuck: readonly string[]
}

type Entry = { id?: string; isAcknowledged: boolean; copies: number; isVisible: boolean }

export class Ledger {
  readonly #entries = new Map<string, Entry>()
  readonly #unexpected: string[] = []
  readonly #stuck: string[] = []
  #delivered = 0
  #lastAt: number | undefined
  #longestGapMs = 0

  attempt(key: string): void {
    if (!this.#entries.has(key)) {
      this.#entries.set(key, { isAcknowledged: false, copies: 0, isVisible: false })
    }
  }

  /** With the id of the answer; false when this key had another id before: two messages for one key. */
  acknowledge(key: string, id: string): boolean {
    this.attempt(key)
    const entry = this.#entries.get(key) as Entry
    const isSame = entry.id === undefined || entry.id === id
    entry.id = id
    entry.isAcknowledged = true
    return isSame
  }

  /** The sink took a copy; `atMs` on any clock that only goes forward. */
  deliver(key: string, atMs: number = performance.now()): void {
    const entry = this.#entries.get(key)
    if (entry === undefined) {
      this.#unexpected.push(key)
      return
    }
    entry.copies += 1
    if (entry.copies === 1) this.#delivered += 1
    if (this.#lastAt !== undefined) this.#longestGapMs = Math.max(this.#longestGapMs, atMs - this.#lastAt)
    this.#lastAt = atMs
  }

  /** They ended, or wait, where a person can see them: dead, unknown, suppressed, canceled. */
  noteVisible(ids: readonly string[]): void {
    const visible = new Set(ids)
    for (const entry of this.#entries.values()) {
      if (entry.id !== undefined && visible.has(entry.id)) entry.isVisible = true
    }
  }

  noteStuck(what: string): void {
    this.#stuck.push(what)
  }

  get delivered(): number {
    return this.#delivered
  }

  get acknowledged(): number {
    let count = 0
    for (const { isAcknowledged } of this.#entries.values()) if (isAcknowledged) count += 1
    return count
  }

  /** Seconds: the longest time between two deliveries, one after the other. */
  get longestGapS(): number {
    return this.#longestGapMs / 1_000
  }

  /** Ids of messages that were acknowledged and have not come out. */
  missing(): string[] {
    return [...this.#entries.values()]
      .filter(({ isAcknowledged, copies }) => isAcknowledged && copies === 0)
      .map(({ id }) => id ?? '')
  }

  /** Keys of messages that have not come out, acknowledged or not. */
  undelivered(): string[] {
    return [...this.#entries].filter(([, { copies }]) => copies === 0).map(([key]) => key)
  }

  /** Messages that came out more than once; the id is empty when no answer has told it. */
  duplicates(): { readonly key: string; readonly id: string; readonly copies: number }[] {
    return [...this.#entries]
      .filter(([, { copies }]) => copies > 1)
      .map(([key, { id = '', copies }]) => ({ key, id, copies }))
  }

  verdict(): Verdict {
    const entries = [...this.#entries]
    const isLost = ({ isAcknowledged, copies, isVisible }: Entry) =>
      isAcknowledged && copies === 0 && !isVisible
    return {
      attempted: entries.length,
      acknowledged: this.acknowledged,
      delivered: this.#delivered,
      lost: entries.filter(([, entry]) => isLost(entry)).map(([key]) => key),
      duplicated: entries.reduce((sum, [, { copies }]) => sum + Math.max(0, copies - 1), 0),
      unexpected: this.#unexpected,
      recovered: entries.filter(([, { isAcknowledged, copies }]) => !isAcknowledged && copies > 0).length,
      setAside: entries.filter(
        ([, { isAcknowledged, copies, isVisible }]) => isAcknowledged && copies === 0 && isVisible,
      ).length,
      stuck: this.#stuck,
    }
  }
}
