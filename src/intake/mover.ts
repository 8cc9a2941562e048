import { sql } from 'kysely'
import type { Catalog } from '../catalog.ts'
import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { isLastingFault, sqlState } from '../db/sqlstate.ts'
import { inTransaction, type Transaction } from '../db/transaction.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import type { Message } from '../message/message.ts'
import type { MessageLimits } from '../message/message-schema.ts'
import type { Meter } from '../meter.ts'
import type { Bells } from '../queue/bells.ts'
import type { Boss } from '../queue/boss.ts'
import { announceProcessing, enqueueProcessing } from '../queue/processing-jobs.ts'
import { QueueFront, WHOLE_LOOK } from '../queue/queue-front.ts'
import { NO_KEYS, type Sealer } from '../sealer.ts'
import { uuid7 } from '../uuid7.ts'
import { settleAttachments } from './attachments.ts'
import { type ExaminedRow, examine, refuse } from './examine.ts'
import { type MoveOutcome, settleIdempotency } from './idempotency.ts'
import * as queries from './queries.ts'
import { sealRow } from './sensitive.ts'

/**
 * The mover empties both doors into `mail.message`.
 *
 * Takes in: rows of `mail.intake` and `mail.outbox`. Leaves behind, in one transaction: the messages,
 * their content, attachments and first events, their settled idempotency keys, and processing jobs that carry batches
 * of ids; of a message that is to go out later no job, but its moment in `mail.scheduled`. A row that cannot
 * be understood becomes a message that is dead, with the reason.
 *
 * If the process dies anywhere before the commit, nothing happened and the rows are taken again, by
 * whichever process comes first; after it, everything happened. If the connection dies while committing,
 * nobody here knows which of the two: callers who wait are answered from the tables (see accept.ts).
 */

const BATCH_ROWS = 500
const BATCH_BYTES = 16 * 1_024 * 1_024
/** Of a row that cannot be stored, so much is kept. */
const KEPT_CHARS = 1_000_000
/** Processes append at the same time, and commit in another order than their numbers. */
const LATE_ROWS = 10_000

export type MoverDeps = {
  readonly db: Database
  readonly boss: Boss
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
}

/** How often the doors are looked at by themselves, for rows that SQL writers append unannounced; the urgent lane need not. */
const IDLE_MS = { all: 100, urgent: 1_000 }

/** `urgent`: what this process appended and is urgent, at the same time, so that it need not wait for the hundreds that are being moved. */
export type MoverLane = 'all' | 'urgent'

/** Every process has one: the API's own makes durable answers quick. */
export type Mover = {
  start(): void
  /** Resolves when what is under way was moved. */
  stop(): Promise<void>
  /** Rows were appended. */
  wake(lane: MoverLane): void
}

type MoverOptions = MoverDeps & {
  readonly log: Log
  readonly onMoved: (outcomes: ReadonlyMap<string, MoveOutcome>) => void
}

export function createMover(options: MoverOptions): Mover {
  const lanes = { all: createLane(options, 'all'), urgent: createLane(options, 'urgent') }
  const loops = Object.values(lanes)
  return {
    start: () => {
      for (const loop of loops) loop.start()
    },
    stop: async () => {
      await Promise.all(loops.map((loop) => loop.stop()))
    },
    wake: (lane) => lanes[lane].bell.ring(),
  }
}

function createLane(options: MoverOptions, lane: MoverLane): Loop {
  let oneByOne = false
  const front = new QueueFront(LATE_ROWS)
  return new Loop({
    name: lane === 'all' ? 'mover' : `mover ${lane}`,
    log: options.log,
    idleMs: IDLE_MS[lane],
    round: async () => {
      try {
        const { outcomes, isFull } = await moveBatch({ ...options, front }, { oneByOne, lane })
        oneByOne = false
        options.onMoved(outcomes)
        return isFull
      } catch (error) {
        // A row that the database will not have must not hold the others: the next round finds it.
        oneByOne = isLastingFault(error)
        throw error
      }
    },
  })
}

export type Moved = {
  readonly outcomes: ReadonlyMap<string, MoveOutcome>
  /** The batch met its limit of rows or bytes. */
  readonly isFull: boolean
}

/**
 * Moves one batch; says what became of each row taken. Throws what the database throws, unless it stores
 * one row at a time: then a row that is refused becomes a dead letter.
 */
export async function moveBatch(
  deps: MoverDeps,
  { oneByOne = false, lane = 'all' }: { oneByOne?: boolean; lane?: MoverLane } = {},
): Promise<Moved> {
  const { outcomes, rows, isFull, taken } = await inTransaction(deps.db, async (trx) => {
    const taken = await take(trx, deps, lane)
    if (taken.length > 0) reached('mover.taken')
    const examined = await settleAttachments(trx, await examineBatch(deps, taken))
    const settled = await settleIdempotency(trx, examined, deps.isAwaited)
    const seal = (row: ExaminedRow) => sealRow(deps.sealer ?? NO_KEYS, row)
    const rows = oneByOne
      ? await storeOneByOne(trx, seal, settled.rows, settled.outcomes)
      : settled.rows.map(seal)
    if (!oneByOne && rows.length > 0) await queries.storeMessages(trx, rows)
    // After the messages, which may be of this batch: a timeline begins with its message.
    if (settled.replayed.length > 0) await queries.recordReplays(trx, settled.replayed)
    await enqueueProcessing(deps.boss, trx, rows.filter(isAccepted))
    if (taken.length > 0) reached('mover.before-commit')
    return { outcomes: settled.outcomes, rows, isFull: isFullBatch(taken), taken }
  })
  if (taken.length > 0) reached('mover.committed')
  count(deps.meter, taken)
  announceProcessing(deps, rows.filter(isAccepted))
  countStored(deps.meter, rows)
  return { outcomes, isFull }
}

async function take(
  trx: Transaction,
  { front, process: mover }: MoverDeps,
  lane: MoverLane,
): Promise<queries.TakenRow[]> {
  const look = front?.begin() ?? WHOLE_LOOK
  const startedAt = performance.now()
  const takeNext = lane === 'urgent' ? queries.takeUrgent : queries.takeBatch
  const taken = await takeNext(trx, { rows: BATCH_ROWS, bytes: BATCH_BYTES, mover, look })
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

function isAccepted(row: queries.MovedRow): boolean {
  return row.status === 'accepted'
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
