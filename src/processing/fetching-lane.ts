import { setTimeout as delay } from 'node:timers/promises'
import { type AttachmentUse, useAttachments } from '../attachment-store.ts'
import { reached } from '../crash-point.ts'
import { isLastingFault } from '../db/sqlstate.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import { Loop } from '../loop.ts'
import { MAX_ATTACHMENTS_BYTES, type Message, type StoredAttachment } from '../message/message.ts'
import { isStored, TOO_MUCH } from '../message/message-attachments.ts'
import { sealMessage } from '../message/sensitive-message.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from '../queue/bells.ts'
import { within } from '../queue/boss.ts'
import { jobPriority, processQueue } from '../queue/queues.ts'
import { NO_KEYS, SEAL_BYTES } from '../sealer.ts'
import { type AttachmentFetcher, FetchFailure } from './attachment-fetcher.ts'
import { type Claim, type ClaimDeps, claimJobs, FETCHING_PRIORITY, finishJobs, type Job } from './claims.ts'
import * as queries from './queries.ts'
import { openLoaded } from './sensitive.ts'
import { deadRow, storeProcessed } from './store-queries.ts'

/**
 * Fetches the attachments that messages of one stream name by URL, before those are processed.
 *
 * Takes in: jobs of one message each, which the ordinary lane put aside. Leaves behind, in one transaction: what was
 * fetched in `mail.message_prepared`, an ordinary processing job, and no fetching job; or a later job; or a dead
 * letter. Each message has a slot of its own, so that a slow host holds up its own messages and no others.
 *
 * If the process dies, nothing was written but bytes that nobody uses yet; upkeep gives the job back, and they are
 * fetched again.
 */

const SLOTS = 20
/** Fresh messages ring the bell; this is how late one that was put off may be. */
const IDLE_MS = 2_000
/** Waits before the second and each further attempt: a host has about five minutes to come back. */
const DELAYS_S = [10, 40, 90, 160]
/** After what was no fault of the host. */
const BUSY_DELAY_S = 3
/** So that messages which failed together do not come back together. */
const SPREAD = 0.2
const LONGEST_PAUSE_MS = 2_000
const MAX_REASON_CHARS = 500

export type FetchingDeps = ClaimDeps & {
  readonly bells: Bells
  readonly meter: Meter
  readonly fetcher: AttachmentFetcher
}

type Outcome =
  | {
      readonly kind: 'fetched'
      readonly attachments: readonly StoredAttachment[]
      readonly priority: number
      /** Of a sensitive message: all that is secret of it, these attachments too. */
      readonly sealed?: string
    }
  | { readonly kind: 'later'; readonly fetches: number; readonly delayS: number; readonly because: string }
  | { readonly kind: 'dead'; readonly code: string; readonly reason: string; readonly domain: string | null }
  /** Canceled meanwhile, or processed by others. */
  | { readonly kind: 'gone' }

export class FetchingLane {
  readonly #deps: FetchingDeps
  readonly #stream: string
  readonly #queue: string
  readonly #loop: Loop
  readonly #underWay = new Set<Promise<void>>()
  readonly #stopping = new AbortController()

  constructor(deps: FetchingDeps, stream: string) {
    this.#deps = deps
    this.#stream = stream
    this.#queue = processQueue(stream)
    this.#loop = new Loop({
      name: `${this.#queue} fetching`,
      log: deps.log,
      idleMs: IDLE_MS,
      round: () => this.#claim(),
    })
    deps.bells.attach(fetchingBell(stream), this.#loop.bell)
  }

  start(): void {
    this.#loop.start()
  }

  /** Gives up what is being fetched, and its jobs back. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    this.#deps.fetcher.stop()
    await this.#loop.stop()
    await Promise.all(this.#underWay)
  }

  async #claim(): Promise<boolean> {
    const batchSize = SLOTS - this.#underWay.size
    if (batchSize === 0) return false
    const claims: Claim[] = []
    try {
      await claimJobs(
        this.#deps,
        this.#queue,
        { batchSize, maxPriority: FETCHING_PRIORITY },
        { recorded: (claim) => claims.push(claim) },
      )
    } finally {
      // Not before the commit, and even when the answer to it was lost: settling finds out whose they are.
      for (const claim of claims) for (const job of claim.jobs) this.#begin({ ...claim, jobs: [job] }, job)
    }
    // When all slots are taken, the bell rings as soon as one is free.
    return false
  }

  #begin(claim: Claim, job: Job): void {
    const work = this.#carryOut(claim, job).finally(() => {
      this.#underWay.delete(work)
      this.#loop.bell.ring()
    })
    this.#underWay.add(work)
  }

  /** Until it is written down: nobody else may touch what a living worker claimed. */
  async #carryOut(claim: Claim, job: Job): Promise<void> {
    const [id = ''] = job.data.ids
    let outcome: Outcome | undefined
    for (let pauseMs = 100; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
      try {
        outcome ??= await this.#attempt(id, job)
        await this.#settle(claim, id, outcome)
        return
      } catch (error) {
        this.#deps.log.warn(
          { message: id, queue: this.#queue, error },
          'fetching attachments failed, will try again',
        )
        // A stopped worker leaves its claims behind, and others give the jobs back.
        if (this.#stopping.signal.aborted) return
        if (isLastingFault(error)) outcome = UNFORESEEN
        await delay(pauseMs)
      }
    }
  }

  async #attempt(id: string, job: Job): Promise<Outcome> {
    reached('fetching.claimed')
    const { sealer = NO_KEYS } = this.#deps
    const { opened, unreadable } = openLoaded(sealer, await queries.loadAccepted(this.#deps.db, [id]))
    const [accepted] = opened
    const [{ fault } = {}] = unreadable
    if (fault !== undefined) return { kind: 'dead', code: fault.code, reason: fault.message, domain: null }
    if (accepted === undefined) return { kind: 'gone' }
    const { message, priority } = accepted
    try {
      const attachments = await fetchAll(this.#deps.fetcher, message)
      if (!message.sensitive) return { kind: 'fetched', attachments, priority }
      const { sealed } = sealMessage(sealer, id, { ...message, attachments })
      return { kind: 'fetched', attachments, priority, sealed }
    } catch (error) {
      if (!(error instanceof FetchFailure)) throw error
      return judge(error, job.data.fetches ?? 0, message)
    }
  }

  async #settle(claim: Claim, id: string, outcome: Outcome): Promise<void> {
    const { deps, queue } = { deps: this.#deps, queue: this.#queue }
    const isOurs = await inTransaction(deps.db, async (trx) => {
      if (!(await finishJobs(deps, trx, queue, claim))) return false
      await this.#write(trx, id, outcome)
      reached('fetching.before-commit')
      return true
    })
    if (!isOurs) return
    reached('fetching.committed')
    if (outcome.kind === 'fetched') deps.bells.ring(queue)
    if (outcome.kind === 'dead') {
      const flow = { stage: 'processing', stream: this.#stream, provider: '' }
      deps.meter.wentOut(flow, 1)
      deps.meter.happened('processed', flow, 1)
      deps.meter.happened('dead', flow, 1)
      deps.log.warn({ message: id, stage: 'processing', code: outcome.code }, 'message is dead')
    }
  }

  async #write(trx: Transaction, id: string, outcome: Outcome): Promise<void> {
    const { boss } = this.#deps
    if (outcome.kind === 'fetched') {
      const { attachments, priority, sealed } = outcome
      const isWaiting =
        sealed === undefined
          ? await queries.storeFetched(trx, id, attachments)
          : await queries.storeFetchedSealed(trx, id, sealed)
      if (!isWaiting) return
      await useAttachments(
        trx,
        attachments.map(({ sha256 }): AttachmentUse => ({ messageId: id, stream: this.#stream, sha256 })),
      )
      await boss.insert(this.#queue, [{ data: { ids: [id] }, priority: jobPriority(priority) }], within(trx))
    } else if (outcome.kind === 'later') {
      const { fetches, because, delayS } = outcome
      const data = { ids: [id], fetches, because }
      await boss.insert(
        this.#queue,
        [{ data, priority: FETCHING_PRIORITY, startAfter: `${delayS} seconds` }],
        within(trx),
      )
    } else if (outcome.kind === 'dead') {
      await storeProcessed(trx, [
        { ...deadRow(id, outcome.code, outcome.reason), recipient_domain: outcome.domain },
      ])
    }
  }
}

/** What rings when messages were put aside for fetching: the queue's own bell is for the ordinary lane. */
export function fetchingBell(stream: string): string {
  return `${processQueue(stream)}:fetching`
}

/** True for a message that has to wait for its attachments. */
export function hasRemote({ attachments }: Message): boolean {
  return attachments?.some((each) => !isStored(each)) === true
}

/** In place of the URL and what its host answered. */
const WITHHELD = 'an attachment of this sensitive message could not be fetched; its address is not kept here'

const UNFORESEEN: Outcome = {
  kind: 'dead',
  code: 'processing_failed',
  reason: 'Fetching its attachments failed in an unforeseen way; the log has the details.',
  domain: null,
}

/** One after another: how much is asked of a host at once is then a matter of slots. */
async function fetchAll(fetcher: AttachmentFetcher, message: Message): Promise<StoredAttachment[]> {
  const stored: StoredAttachment[] = []
  let bytes = 0
  for (const attachment of message.attachments ?? []) {
    if (isStored(attachment)) stored.push(attachment)
    else {
      const { path, ...described } = attachment
      const isSensitive = message.sensitive === true
      stored.push({ ...described, ...(await fetcher.fetch(path, { isSensitive })) })
    }
    bytes += plainSizeOf(stored.at(-1))
    if (bytes > MAX_ATTACHMENTS_BYTES) throw new FetchFailure('refused', `With what was fetched, ${TOO_MUCH}`)
  }
  return stored
}

function plainSizeOf(stored: StoredAttachment | undefined): number {
  return (stored?.size ?? 0) - (stored?.key === undefined ? 0 : SEAL_BYTES)
}

function judge(failure: FetchFailure, fetchesBefore: number, message: Message): Outcome {
  const because = message.sensitive ? WITHHELD : failure.message.slice(0, MAX_REASON_CHARS)
  if (failure.fault === 'busy')
    return { kind: 'later', fetches: fetchesBefore, delayS: spread(BUSY_DELAY_S), because }
  const domain = message.to[0]?.address.split('@')[1] ?? null
  if (failure.fault === 'refused') {
    return { kind: 'dead', code: 'attachment_refused', reason: `${because}.`, domain }
  }
  const fetches = fetchesBefore + 1
  const delayS = DELAYS_S[fetches - 1]
  if (delayS !== undefined) return { kind: 'later', fetches, delayS: spread(delayS), because }
  return {
    kind: 'dead',
    code: 'attachment_unavailable',
    reason: `${because}, in each of ${fetches} attempts.`,
    domain,
  }
}

function spread(delayS: number): number {
  return delayS * (1 + SPREAD * Math.random())
}
