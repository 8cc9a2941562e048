import type { PlotData } from './plot.ts'
import type { MeasuredTargets } from './targets.ts'

/** What one benchmark found out. */
export type Findings = {
  /** For people, as Markdown. */
  readonly text: string
  /** For programs. */
  readonly data: unknown
  readonly measured?: MeasuredTargets
  readonly plot?: PlotData
  /** Messages that were acknowledged and never arrived. Anything but 0 is a broken promise. */
  readonly lost: number
  /** Other promises that were broken, a sentence each. */
  readonly broken?: readonly string[]
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

/** How much each benchmark does; see sizes.ts. */
export type Sizes = {
  /** Mails of one turn of end-to-end; each of the others has its own number. */
  readonly messages: number
  /** How often what is compared takes its turn. */
  readonly rounds: number
  readonly seconds: number
  readonly idleMails: number
  readonly waiting: readonly number[]
  /** Mails whose way is timed while so many wait. */
  readonly windowMails: number
  readonly largeMails: number
  readonly footprintMails: number
  readonly providerMails: number
  readonly pacingProcesses: readonly number[]
  readonly pacingSeconds: number
}

export type BenchOptions = Sizes & {
  readonly profileDir: string | undefined
  readonly burst: BurstOptions
  readonly say: (line: string) => void
}
