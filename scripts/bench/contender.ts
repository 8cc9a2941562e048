import type { Watched } from './cpu.ts'

/** What one turn of a contender came to. */
export type Turn = {
  readonly startedAt: bigint
  /** Undefined when the sink had not everything although nothing came any more. */
  readonly endedAt: bigint | undefined
  readonly lost: number
  readonly duplicated: number
}

/** Somebody who sends orders to the sink. Its processes live for one turn, so that none works beside another. */
export type Contender = {
  readonly name: string
  /** Who stands for "the sender" in the table, whatever its process is called. */
  open(): Promise<{
    readonly watched: readonly Watched[]
    /** Hands over `count` orders and waits until the sink has them all and nothing is left to do. */
    send(count: number): Promise<Turn>
    close(): Promise<void>
  }>
}
