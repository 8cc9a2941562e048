import { isDatabaseUnavailable } from '../db/connection-error.ts'
import { isLastingFault } from '../db/sqlstate.ts'
import type { Log } from '../log.ts'
import { Loop } from '../loop.ts'
import { QueueFront } from '../queue/queue-front.ts'
import { notAccepted, unavailable } from './acceptance-errors.ts'
import type { Handed } from './handed.ts'
import { type MoveOutcome, outcomeOf } from './idempotency.ts'
import { BATCH_BYTES, BATCH_ROWS, type MoverDeps, moveBatch, moveNew } from './move-batch.ts'
import { findMoved } from './moved-queries.ts'
import type * as queries from './queries.ts'

/**
 * The mover empties both doors into `mail.message`, and what callers handed over who wait for a durable answer.
 *
 * Takes in: rows of `mail.intake` and `mail.outbox`, and of `Handed`. Leaves behind, in one transaction: the messages,
 * their content, attachments and first events, their settled idempotency keys, and processing jobs that carry batches
 * of ids; of a message that is to go out later no job, but its moment in `mail.scheduled`. A row that cannot
 * be understood becomes a message that is dead, with the reason. Of what was handed over, what is new comes first, in a
 * transaction of its own, and its callers hear of it before the rest is settled.
 *
 * If the process dies anywhere before the commit, nothing happened: the rows of the doors are taken again, by
 * whichever process comes first, and callers who wait were told nothing; after it, everything happened. If the connection
 * dies while committing, nobody here knows which of the two: callers are answered from the tables (see accept.ts), and what
 * was handed over is tried again only when it is not found there.
 */

/** Processes append at the same time, and commit in another order than their numbers. */
const LATE_ROWS = 10_000
/** How often the doors are looked at by themselves, for rows that SQL writers append unannounced. */
const DOORS_IDLE_MS = 100
const HANDED_IDLE_MS = 1_000
/** A moment without the database is waited out; then callers hear of it. */
const AWAY_FAILURES = 2

/** Who handed over in this process, in two lanes: what is urgent need not wait for the hundreds that are being moved. */
export type Hands = { readonly urgent: Handed; readonly others: Handed }

export type MoverLane = 'doors' | keyof Hands

/** Every process has one: the API's own makes durable answers quick. */
export type Mover = {
  start(): void
  /** Resolves when what is under way was moved. */
  stop(): Promise<void>
  /** Rows were appended, or handed over. */
  wake(lane: MoverLane): void
}

type MoverOptions = MoverDeps & {
  readonly log: Log
  readonly hands: Hands
  readonly onMoved: (outcomes: ReadonlyMap<string, MoveOutcome>) => void
  /** Told of what was handed over and has to go by the doors. */
  readonly onQueued: (id: string) => void
  /** Told of what was handed over and is given up, with what its caller is to hear. */
  readonly onRefused: (id: string, error: Error) => void
}

export function createMover(options: MoverOptions): Mover {
  const lanes = {
    doors: createDoorsLane(options),
    urgent: createHandedLane(options, 'urgent'),
    others: createHandedLane(options, 'others'),
  }
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

function createDoorsLane(options: MoverOptions): Loop {
  let oneByOne = false
  const front = new QueueFront(LATE_ROWS)
  return new Loop({
    name: 'mover',
    log: options.log,
    idleMs: DOORS_IDLE_MS,
    round: async () => {
      try {
        const { outcomes, isFull } = await moveBatch({ ...options, front }, { oneByOne })
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

function createHandedLane(options: MoverOptions, lane: keyof Hands): Loop {
  const hand = options.hands[lane]
  /** Those that are left from the round before failed in it: whether that was committed is not known. */
  let inHand: readonly queries.TakenRow[] = []
  let oneByOne = false
  let failures = 0
  const move = async (): Promise<boolean> => {
    if (inHand.length > 0) inHand = await unmoved(options, inHand)
    if (inHand.length === 0) inHand = hand.take(BATCH_ROWS, BATCH_BYTES)
    if (inHand.length === 0) return false
    if (!oneByOne) {
      const outcomes = await moveNew(options, inHand)
      inHand = inHand.filter(({ id }) => !outcomes.has(id))
      options.onMoved(outcomes)
    }
    if (inHand.length > 0) {
      const { outcomes, queued } = await moveBatch(options, { oneByOne, handed: inHand })
      inHand = []
      options.onMoved(outcomes)
      for (const id of queued) options.onQueued(id)
    }
    return true
  }
  return new Loop({
    name: `mover ${lane}`,
    log: options.log,
    idleMs: HANDED_IDLE_MS,
    round: async () => {
      try {
        const isMoved = await move()
        oneByOne = false
        failures = 0
        return isMoved
      } catch (error) {
        oneByOne = isLastingFault(error)
        failures += 1
        if (failures >= AWAY_FAILURES && isDatabaseUnavailable(error)) {
          for (const { id } of inHand) options.onRefused(id, unavailable(error))
          for (const { id } of hand.take(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY)) {
            options.onRefused(id, notAccepted())
          }
        }
        throw error
      }
    },
  })
}

/** Those of a batch that are not stored and that somebody waits for; tells what became of the others. */
async function unmoved(
  { db, isAwaited, onMoved }: MoverOptions,
  batch: readonly queries.TakenRow[],
): Promise<readonly queries.TakenRow[]> {
  const found = await findMoved(
    db,
    batch.map(({ id }) => ({ id, key: null, message: 'null' })),
  )
  const outcomes = new Map(found.map((row) => [row.id, outcomeOf(row)]))
  onMoved(outcomes)
  return batch.filter(({ id }) => !outcomes.has(id) && isAwaited(id))
}
