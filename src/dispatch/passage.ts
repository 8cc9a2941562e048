import type { Transaction } from '../db/transaction.ts'
import { SendingHeldError } from '../lifeline.ts'
import type { Passage } from '../queue/outlets.ts'
import {
  type Claim,
  type ClaimDeps,
  type ClaimPlace,
  claimFetched,
  type FetchedClaims,
  noteCommitted,
} from './claims.ts'
import { unfetchJobs } from './job-queries.ts'

type OnPassage = {
  /** The room is not needed any more, or `claims`, which are committed, have it from now on. */
  readonly over: (claims: readonly Claim[]) => void
  /** The same after a failure: nobody knows whether these are committed. */
  readonly doubted: (claims: readonly Claim[]) => void
}

/** The dispatcher's side of what goes from hand to hand (see queue/outlets.ts). */
export function openPassage(deps: ClaimDeps, place: ClaimPlace, on: OnPassage): Passage {
  let claimed: FetchedClaims | undefined
  return {
    claim: async (trx: Transaction, ids: readonly string[]) => {
      try {
        claimed = await claimFetched(
          deps,
          trx,
          place,
          ids.map((id) => ({ id, retryCount: 0, data: null })),
        )
      } catch (error) {
        if (!(error instanceof SendingHeldError)) throw error
        await unfetchJobs(trx, place.queue, ids)
      }
    },
    end: (how) => {
      const claims = claimed?.claims ?? []
      if (how === 'failed') return on.doubted(claims)
      try {
        if (claimed !== undefined) noteCommitted(deps, place, claimed)
      } finally {
        on.over(claims)
      }
    },
  }
}
