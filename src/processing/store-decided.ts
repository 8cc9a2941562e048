/** Ends a claim: what was decided of its messages is stored with their jobs to be sent, and whoever goes on with them is told. */
import type { Stream } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from '../queue/bells.ts'
import type { Outlets, Passage } from '../queue/outlets.ts'
import { dispatchQueue, processQueue } from '../queue/queues.ts'
import {
  ALONE_PRIORITY,
  type Claim,
  type ClaimDeps,
  claimedJobs,
  FETCHING_PRIORITY,
  insertSingly,
  tellLost,
} from './claims.ts'
import { fetchingBell } from './fetching-lane.ts'
import { type ProcessedRow, storeProcessed } from './store-queries.ts'

const SLICE_CHARS = 16_000_000

export type StoreDeps = ClaimDeps & {
  readonly bells: Bells
  readonly meter: Meter
  readonly outlets: Outlets
}

/** Messages that nothing was decided of yet: each goes to another lane. */
export type Later = { readonly alone: readonly string[]; readonly fetching: readonly string[] }
export const NONE_LATER: Later = { alone: [], fetching: [] }

export async function storeDecided(
  deps: StoreDeps,
  stream: Stream,
  claim: Claim,
  decided: readonly ProcessedRow[],
  later: Later,
): Promise<void> {
  const queue = processQueue(stream.name)
  const [first = [], ...others] = slicesOf(decided)
  const isAll = others.length + later.alone.length + later.fetching.length === 0
  const passage = isAll ? passageOf(deps, stream, first) : undefined
  const storing = { claim: claimedJobs(queue, claim), isLast: isAll, isFetched: passage !== undefined }
  try {
    const stored = await inTransaction(deps.db, async (trx) => {
      const { end, ids, jobs } = await storeProcessed(trx, first, storing)
      if (end === 'lost') {
        tellLost(deps, queue, claim)
        return []
      }
      const kept = new Set(ids)
      for (const slice of others) for (const id of (await storeProcessed(trx, slice)).ids) kept.add(id)
      await insertSingly(deps, trx, queue, later.alone, ALONE_PRIORITY)
      await insertSingly(deps, trx, queue, later.fetching, FETCHING_PRIORITY)
      if (jobs.length > 0) await passage?.claim(trx, jobs)
      return decided.filter((row) => kept.has(row.id))
    })
    reached('processing.committed')
    report(deps, stream, stored)
    if (passage === undefined) ringDispatch(deps, stream, stored)
    if (later.fetching.length > 0) deps.bells.ring(fetchingBell(stream.name))
  } catch (error) {
    passage?.end('failed')
    throw error
  }
  passage?.end('committed')
}

/** For messages that are all to be sent, through the one provider. */
function passageOf(
  { outlets }: StoreDeps,
  stream: Stream,
  rows: readonly ProcessedRow[],
): Passage | undefined {
  const provider = rows[0]?.provider ?? null
  if (provider === null || rows.some((row) => row.provider !== provider)) return undefined
  return outlets.reserve(dispatchQueue(provider, stream.name), rows.length)
}

function ringDispatch({ bells }: StoreDeps, stream: Stream, stored: readonly ProcessedRow[]): void {
  for (const provider of new Set(stored.map((row) => row.provider))) {
    if (provider !== null) bells.ring(dispatchQueue(provider, stream.name))
  }
}

/** A statement is one string, and strings have an end: what was rendered goes in slices of bounded size. */
function slicesOf(rows: readonly ProcessedRow[]): ProcessedRow[][] {
  const slices: ProcessedRow[][] = []
  let slice: ProcessedRow[] = []
  let chars = 0
  for (const row of rows) {
    slice.push(row)
    const { html, text, sealed } = row.prepared ?? {}
    chars += (html?.length ?? 0) + (text?.length ?? 0) + (sealed?.length ?? 0)
    if (chars <= SLICE_CHARS) continue
    slices.push(slice)
    slice = []
    chars = 0
  }
  if (slice.length > 0) slices.push(slice)
  return slices
}

function report(deps: StoreDeps, stream: Stream, stored: readonly ProcessedRow[]): void {
  const flow = { stage: 'processing', stream: stream.name, provider: '' }
  deps.meter.wentOut(flow, stored.length)
  deps.meter.happened('processed', flow, stored.length)
  for (const status of ['dead', 'suppressed'] as const) {
    deps.meter.happened(status, flow, stored.filter((row) => row.status === status).length)
  }
  for (const [provider, rows] of Map.groupBy(stored, (row) => row.provider)) {
    if (provider === null) continue
    deps.meter.cameIn({ stage: 'dispatch', stream: stream.name, provider }, rows.length)
  }
  for (const row of stored) {
    if (row.status === 'dead') {
      deps.log.warn(
        {
          message: row.id,
          stage: 'processing',
          code: row.code,
          template: row.template,
          version: row.template_version,
        },
        'message is dead',
      )
    }
  }
}
