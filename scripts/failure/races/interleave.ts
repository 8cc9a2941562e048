import { setTimeout as delay } from 'node:timers/promises'
import { sql } from 'kysely'
import { type Database, openPool } from '../../../src/db/pool.ts'
import { NotRegisteredError } from '../../../src/db/registration.ts'
import { sqlState } from '../../../src/db/sqlstate.ts'
import { inTransaction, type Transaction } from '../../../src/db/transaction.ts'
import { createLog } from '../../../src/log.ts'

/** One side of a race, as one transaction; it stops at each `pause`, where the other side may go on. */
export type Side = {
  /** Between its statements; its beginning and its commit are turns as well. */
  readonly pauses: number
  act(trx: Transaction, pause: () => Promise<void>): Promise<string>
}

/** A connection of its own, whose waits for locks can be seen. */
export type Session = { readonly db: Database; readonly pid: number }

export async function openRacer(url: string): Promise<Session & { close(): Promise<void> }> {
  const { db, close } = openPool({ url, maxConnections: 1, role: undefined, log: createLog('silent') })
  const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db)
  return { db, pid: rows[0]?.pid ?? 0, close }
}

/** Every order in which two sides can take their turns, as a text of A and B. */
export function ordersOf(a: Side, b: Side): string[] {
  const build = (leftA: number, leftB: number): string[] => {
    if (leftA === 0) return ['B'.repeat(leftB)]
    if (leftB === 0) return ['A'.repeat(leftA)]
    return [
      ...build(leftA - 1, leftB).map((rest) => `A${rest}`),
      ...build(leftA, leftB - 1).map((rest) => `B${rest}`),
    ]
  }
  return build(a.pauses + 2, b.pauses + 2)
}

/** A side that neither comes to its next turn nor waits for a lock in so long is working; the other goes on. */
const STEP_MS = 150
const LOOK_MS = 4

/** Runs both sides in this order and returns what each answered, or `error` and its SQLSTATE. */
export async function interleave(
  observer: Database,
  order: string,
  sides: { readonly A: readonly [Session, Side]; readonly B: readonly [Session, Side] },
): Promise<{ readonly A: string; readonly B: string }> {
  const runners = { A: startRunner(...sides.A), B: startRunner(...sides.B) }
  for (const letter of order) {
    const runner = runners[letter as 'A' | 'B']
    if (runner.go()) await settledOrWaiting(observer, runner)
  }
  const all = [runners.A, runners.B]
  while (!all.every((runner) => runner.isOver())) {
    for (const runner of all) runner.go()
    await delay(LOOK_MS)
  }
  return { A: await runners.A.answer, B: await runners.B.answer }
}

type Runner = {
  readonly answer: Promise<string>
  readonly pid: number
  /** Lets it go on; false when it has not come to its next turn. */
  go(): boolean
  isAtTurn(): boolean
  isOver(): boolean
}

function startRunner({ db, pid }: Session, side: Side): Runner {
  let gate: (() => void) | undefined
  let isOver = false
  const turn = () =>
    new Promise<void>((resolve) => {
      gate = resolve
    })
  const run = async () => {
    await turn()
    try {
      return await inTransaction(db, async (trx) => {
        const answer = await side.act(trx, turn)
        await turn()
        return answer
      })
    } catch (error) {
      if (error instanceof NotRegisteredError) return 'not registered'
      return `error ${sqlState(error) ?? String(error)}`
    } finally {
      isOver = true
    }
  }
  return {
    answer: run(),
    pid,
    go: () => {
      const open = gate
      gate = undefined
      open?.()
      return open !== undefined
    },
    isAtTurn: () => gate !== undefined,
    isOver: () => isOver,
  }
}

async function settledOrWaiting(observer: Database, runner: Runner): Promise<void> {
  const until = performance.now() + STEP_MS
  while (!runner.isAtTurn() && !runner.isOver() && performance.now() < until) {
    await delay(LOOK_MS)
    if (runner.isAtTurn() || runner.isOver()) return
    const { rows } = await sql`select from unnest(pg_blocking_pids(${runner.pid}::integer))`.execute(observer)
    if (rows.length > 0) return
  }
}
