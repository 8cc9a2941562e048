import { sql } from 'kysely'
import type { Catalog } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { isLastingFault, sqlState } from '../db/sqlstate.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { Message } from '../message/message.ts'
import type { MessageLimits } from '../message/message-schema.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from '../queue/bells.ts'
import type { HandedJob, Handover } from '../queue/handover.ts'
import { announceProcessing, countProcessing } from '../queue/processing-jobs.ts'
import { type QueueFront, WHOLE_LOOK } from '../queue/queue-front.ts'
import { NO_KEYS, type Sealer } from '../sealer.ts'
import { uuid7 } from '../uuid7.ts'
import { settleAttachments } from './attachments.ts'
import { type ExaminedRow, examine, refuse } from './examine.ts'
import { KEY_HOURS, keyedRows, type MoveOutcome, settleIdempotency, storedAs } from './idempotency.ts'
import * as queries from './queries.ts'
import { sealRow } from './sensitive.ts'

export const BATCH_ROWS = 500
export const BATCH_BYTES = 4 * 1_024 * 1_024
/** Of a row that cannot be stored, so much is kept. */
const KEPT_CHARS = 1_000_000

export type MoverDeps = {
  readonly db: Database
  readonly bells: Bells
  readonly meter: Meter
  readonly catalog: { readonly current: Catalog; refresh(): Promise<void> }
  /** Identifies this process among the movers. */
  readonly process: string
  /** True for a row whose caller waits in this process for the outcome. */
  readonly isAwaited: (id: string) => boolean
  /** What this process read already at the door. Absent: every row is read here. */
  readonly parsedOf?: (id: string) => Message | undefined
  /** Absent: the limits every installation has. */
  readonly limits?: MessageLimits
  /** Absent: no keys, so sensitive mail is refused. */
  readonly sealer?: Sealer
  /** Where the doors begin, in sequence numbers. Absent: every look begins at the very start. */
  readonly front?: QueueFront
  /** To processing in this process. Absent: all goes by the queue. */
  readonly handover?: Handover
}

export type Moved = {
  readonly outcomes: ReadonlyMap<string, MoveOutcome>
  /** Of what was handed over: what has to go by the door, behind the row of an SQL writer that has the same key. */
  readonly queued: readonly string[]
  /** The batch met its limit of rows or bytes. */
  readonly isFull: boolean
}

/**
 * Of what was handed over nearly all is new, and for that one statement does: moves it, and says what became of it. What has attachments,
 * or a key that somebody used before, is left for moveBatch.
 */
export async function moveNew(
  deps: MoverDeps,
  handed: readonly queries.TakenRow[],
): Promise<ReadonlyMap<string, MoveOutcome>> {
  reached('mover.taken')
  const examined = (await examineBatch(deps, handed)).filter(({ attached }) => attached === undefined)
  if (examined.length === 0) return new Map()
  const keyed = keyedRows(examined)
  const sealed = examined.map((row) => sealRow(deps.sealer ?? NO_KEYS, row))
  reached('mover.before-commit')
  const { stored, isHandedOver } = await storeNew(deps, sealed, keyed)
  const outcomes = new Map(stored.map((row) => [row.id, storedAs(row)]))
  countMoved(
    deps,
    handed.filter(({ id }) => outcomes.has(id)),
    stored,
    isHandedOver,
  )
  return outcomes
}

/** Returns what was stored; gives it to processing, where that has nothing else to do. */
async function storeNew(
  deps: MoverDeps,
  rows: readonly ExaminedRow[],
  keyed: readonly queries.KeyedRow[],
): Promise<{ stored: readonly ExaminedRow[]; isHandedOver: boolean }> {
  const seat = deps.handover?.reserve(deps.catalog.current, rows.filter(queries.isAccepted))
  const worker = seat?.worker
  let job: HandedJob | undefined
  try {
    const claiming = { hoursKept: KEY_HOURS, yields: true, worker }
    const { claimed, jobId } = await queries.storeNew(deps.db, rows, keyed, claiming)
    const left = new Set(keyed.filter(({ id }) => !claimed.has(id)).map(({ id }) => id))
    const stored = rows.filter(({ id }) => !left.has(id))
    if (stored.length > 0) reached('mover.committed')
    if (worker !== undefined && jobId !== undefined) {
      job = { id: jobId, worker, messages: stored.filter(queries.isAccepted) }
    }
    return { stored, isHandedOver: job !== undefined }
  } finally {
    seat?.give(job)
  }
}

/**
 * Moves one batch; says what became of each row taken. Throws what the database throws, unless it stores
 * one row at a time: then a row that is refused becomes a dead letter.
 */
export async function moveBatch(
  deps: MoverDeps,
  { oneByOne = false, handed }: { oneByOne?: boolean; handed?: readonly queries.TakenRow[] } = {},
): Promise<Moved> {
  const { settled, rows, isFull, taken } = await inTransaction(deps.db, async (trx) => {
    const taken = handed ?? (await takeFromDoors(trx, deps))
    if (taken.length > 0) reached('mover.taken')
    const examined = await settleAttachments(trx, await examineBatch(deps, taken))
    const settled = await settleIdempotency(trx, examined, {
      isAwaited: deps.isAwaited,
      isHanded: handed !== undefined,
    })
    if (taken.length > 0) reached('mover.before-commit')
    const seal = (row: ExaminedRow) => sealRow(deps.sealer ?? NO_KEYS, row)
    const rows = oneByOne
      ? await storeOneByOne(trx, seal, settled.rows, settled.outcomes)
      : settled.rows.map(seal)
    const isLast = settled.replayed.length === 0
    if (!oneByOne && rows.length > 0) await queries.storeMessages(trx, rows, { isLast })
    // After the messages, which may be of this batch: a timeline begins with its message.
    if (!isLast) await queries.recordReplays(trx, settled.replayed)
    return { settled, rows, isFull: isFullBatch(taken), taken }
  })
  if (taken.length > 0) reached('mover.committed')
  countMoved(
    deps,
    taken.filter(({ id }) => !settled.queued.includes(id)),
    rows,
  )
  return { outcomes: settled.outcomes, queued: settled.queued, isFull }
}

/** What is committed: counts it, and wakes those who go on with it. */
function countMoved(
  deps: MoverDeps,
  taken: readonly queries.TakenRow[],
  stored: readonly queries.MovedRow[],
  isHandedOver = false,
): void {
  count(deps.meter, taken)
  const accepted = stored.filter(queries.isAccepted)
  if (isHandedOver) countProcessing(deps.meter, accepted)
  else announceProcessing(deps, accepted)
  countStored(deps.meter, stored)
}

async function takeFromDoors(
  trx: Transaction,
  { front, process: mover }: MoverDeps,
): Promise<queries.TakenRow[]> {
  const look = front?.begin() ?? WHOLE_LOOK
  const startedAt = performance.now()
  const taken = await queries.takeBatch(trx, { rows: BATCH_ROWS, bytes: BATCH_BYTES, mover, look })
  const found = taken.map(({ rank, seq }) => ({ priority: rank, position: Number(seq) }))
  front?.end(look, performance.now() - startedAt, found)
  return taken
}

/** More may be waiting: the batch met a limit, or came near the one for bytes. What arrives later rings the bell. */
function isFullBatch(taken: readonly queries.TakenRow[]): boolean {
  const chars = taken.reduce((sum, row) => sum + row.message.length, 0)
  return taken.length >= BATCH_ROWS || chars >= BATCH_BYTES / 2
}

async function examineBatch(deps: MoverDeps, taken: readonly queries.TakenRow[]): Promise<ExaminedRow[]> {
  const examineAll = () =>
    taken.map((row) => examine(row, deps.catalog.current, deps.limits, deps.parsedOf?.(row.id), deps.sealer))
  const examined = examineAll()
  if (!examined.some((row) => row.code === 'unknown_stream')) return examined
  // A stream made a moment ago, perhaps in the same transaction as its first mail.
  await deps.catalog.refresh()
  return examineAll()
}

/** Returns what was stored: a row that the database refused stands there as a dead letter under a new id. */
async function storeOneByOne(
  trx: Transaction,
  seal: (row: ExaminedRow) => ExaminedRow,
  rows: readonly ExaminedRow[],
  outcomes: Map<string, MoveOutcome>,
): Promise<ExaminedRow[]> {
  const stored: ExaminedRow[] = []
  for (const examined of rows) {
    const row = seal(examined)
    await sql`savepoint one_row`.execute(trx)
    try {
      await queries.storeMessages(trx, [row])
      stored.push(row)
    } catch (error) {
      if (!isLastingFault(error)) throw error
      await sql`rollback to savepoint one_row`.execute(trx)
      const reason = `The database refused this row (${sqlState(error)}); its id ${row.id} may be in use already.`
      // As a JSON string: whatever it is that Postgres will not read, it stays what was given, to the letter.
      const message = JSON.stringify(row.given.slice(0, KEPT_CHARS))
      const refused = seal({
        ...refuse(examined, 'unstorable', reason),
        id: uuid7(Date.parse(row.accepted_at)),
        message,
      })
      await queries.releaseKey(trx, row.id)
      await queries.storeMessages(trx, [refused])
      outcomes.set(row.id, { kind: 'dead', reason })
      stored.push(refused)
    }
  }
  return stored
}

/** What is taken came in and goes out: a row waits for milliseconds. */
function count(meter: Meter, taken: readonly queries.TakenRow[]): void {
  for (const [stream, rows] of Map.groupBy(taken, (row) => row.stream ?? '')) {
    const flow = { stage: 'intake', stream, provider: '' }
    meter.cameIn(flow, rows.length)
    meter.wentOut(flow, rows.length)
  }
}

function countStored(meter: Meter, rows: readonly queries.MovedRow[]): void {
  for (const [stream, ofStream] of Map.groupBy(rows, (row) => row.stream)) {
    const numberOf = (status: queries.MovedRow['status']) =>
      ofStream.filter((row) => row.status === status).length
    const [dead, scheduled] = [numberOf('dead'), numberOf('scheduled')]
    const place = { stream, provider: '' }
    meter.happened('accepted', place, ofStream.length - dead)
    meter.happened('dead', place, dead)
    if (scheduled > 0) meter.cameIn({ stage: 'scheduled', ...place }, scheduled)
  }
}
