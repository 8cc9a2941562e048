import { type RawBuilder, sql } from 'kysely'
import type { Database } from './db/pool.ts'
import type { Log } from './log.ts'

/** More would not say more: bundles of the last moments, one message of each. */
const MAX_CLAIMS = 50

export type CommittedClaim = { readonly id: string; readonly claimedAt: string }

export type LifelineDeps = {
  readonly db: Database
  readonly log: Log
}

/**
 * What one process remembers of the database, and tells it at each look (mail.look_at_lifeline): one that went back in
 * time under it is found out by that, and sends nothing until a person releases it. On a server that was started again
 * nothing can be claimed before some process has looked, so it does not matter who comes first.
 */
export class Lifeline {
  readonly #deps: LifelineDeps
  #worker: () => number | undefined = () => undefined
  #seen: Pick<Look, 'start' | 'beat'> | undefined
  /** Committed since the latest look, and between that and the one before: a failover loses the last moments. */
  #claims: readonly CommittedClaim[] = []
  #olderClaims: readonly CommittedClaim[] = []
  #looking: Promise<void> | undefined

  constructor(deps: LifelineDeps) {
    this.#deps = deps
  }

  /** The worker of this process: others wait for what it remembers. */
  speakFor(worker: () => number): void {
    this.#worker = worker
  }

  /** These were committed together: a database that does not know one of them has lost commits. */
  noteClaims([first]: readonly CommittedClaim[]): void {
    if (first !== undefined) this.#claims = [...this.#claims, first].slice(-MAX_CLAIMS)
  }

  /** Whoever asks while a look is under way gets that one. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined
    })
    return this.#looking
  }

  async #look(): Promise<void> {
    const { db, log } = this.#deps
    const known = this.#claims
    const memory = { worker: this.#worker(), seen: this.#seen, claims: [...this.#olderClaims, ...known] }
    const { start, beat, held_because: reason } = await lookAtLifeline(db, memory)
    if (reason !== null)
      log.error({ reason }, 'this database went back in time: nothing is sent until a person releases it')
    // Without a beat nobody knows yet what this database is: what we remember is still needed.
    if (beat === null) return
    this.#seen = { start, beat }
    this.#olderClaims = known
    this.#claims = this.#claims.filter((claim) => !known.includes(claim))
  }
}

type Look = {
  /** When the server was started. */
  readonly start: string | null
  readonly beat: string | null
  /** Set by the look that stops sending. */
  readonly held_because: string | null
}

type Memory = {
  readonly worker: number | undefined
  readonly seen: Pick<Look, 'start' | 'beat'> | undefined
  readonly claims: readonly CommittedClaim[]
}

async function lookAtLifeline(db: Database, { worker, seen, claims }: Memory): Promise<Look> {
  const { rows } = await sql<Look>`/* lifeline.look */
    select start::text as start, beat, held_because
    from mail.look_at_lifeline(
      ${worker ?? null}::integer, ${seen?.start ?? null}::timestamptz, ${seen?.beat ?? null}::bigint, ${JSON.stringify(claims)}::json
    )
  `.execute(db)
  return rows[0] ?? { start: null, beat: null, held_because: null }
}

/** Stops sending under a name that was given at the start, unless that very hold was released before. */
export async function holdOnce(db: Database, reason: string): Promise<boolean> {
  const { rows } = await sql<{ held: string }>`/* lifeline.hold_once */
    select mail.hold(${reason}) as held
    where not exists (select from mail.sending_hold where reason = ${reason})
  `.execute(db)
  return rows.length > 0
}

/** For the claim's own statement: closed while nothing may be sent, whatever this process believes. */
export const sendingGate: RawBuilder<{ is_open: boolean }> = sql`select mail.sending_is_open() as is_open`

/** Nothing may be claimed for sending at this moment. */
export class SendingHeldError extends Error {
  readonly code = 'sending_held'
  readonly retryable = true

  constructor() {
    super('nothing is sent at the moment: select mail.why_held() says why')
    this.name = 'SendingHeldError'
  }
}
