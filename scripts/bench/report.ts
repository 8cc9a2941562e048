/** What one benchmark found out. */
export type Findings = {
  readonly name: string
  /** For people, as Markdown. */
  readonly text: string
  /** For programs. */
  readonly data: unknown
  readonly targets: readonly Target[]
  /** Messages that were acknowledged and never arrived. Anything but 0 is a broken promise. */
  readonly lost: number
  /** Other promises that were broken, a sentence each. */
  readonly broken?: readonly string[]
}

export type Target = {
  readonly what: string
  readonly bound: 'at least' | 'at most'
  readonly limit: number
  readonly unit: string
  readonly measured: number
}

export function isMet({ bound, limit, measured }: Target): boolean {
  return bound === 'at least' ? measured >= limit : measured <= limit
}

export type BurstOptions = {
  /** How much of the full size: of its mail and, unless `minutes` says otherwise, of its time. */
  readonly scale: number
  /** How long the first burst takes, however much mail it is. */
  readonly minutes: number
  readonly door: 'rest' | 'sql'
  readonly streams: 'apart' | 'together'
  readonly workers: number
}

export type BenchOptions = {
  readonly messages: number
  readonly runs: number
  readonly seconds: number
  readonly profileDir: string | undefined
  readonly burst: BurstOptions
  readonly say: (line: string) => void
}
