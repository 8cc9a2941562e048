import { randomUUID, randomUUIDv7 } from 'node:crypto'
import { Client } from 'pg'
import { readCatalog } from '../../src/catalog.ts'
import { MACHINE_CLOCK } from '../../src/database-clock.ts'
import { openPool } from '../../src/db/pool.ts'
import { Acceptor } from '../../src/intake/accept.ts'
import { Handed } from '../../src/intake/handed.ts'
import type { MoveOutcome } from '../../src/intake/idempotency.ts'
import { type MoverDeps, moveBatch } from '../../src/intake/move-batch.ts'
import { createMover, type Hands, type Mover, type MoverLane } from '../../src/intake/mover.ts'
import type { IntakeRow } from '../../src/intake/queries.ts'
import { createLog } from '../../src/log.ts'
import { Meter } from '../../src/meter.ts'
import { Bells } from '../../src/queue/bells.ts'
import { startBoss } from '../../src/queue/boss.ts'
import type { TestDatabase } from '../support/database.ts'
import { orderMail } from '../support/service.ts'

/** The intake's parts over a database without any service: nothing moves unless the test says so. */
export async function openIntake(database: TestDatabase) {
  const log = createLog('silent')
  const { db, pool, close } = openPool({ url: database.url, maxConnections: 6, role: undefined, log })
  const boss = await startBoss(pool, log)
  const bells = new Bells(pool, log)
  bells.hasPeers = false
  database.beforeDrop(async () => {
    bells.stop()
    await boss.stop({ graceful: false })
    await close()
  })
  const catalog = { current: await readCatalog(db), refresh: async () => undefined }
  const process = randomUUID()
  const deps: MoverDeps = { db, bells, meter: new Meter(), catalog, process, isAwaited: () => false }
  return {
    db,
    boss,
    bells,
    meter: deps.meter,
    catalog,
    log,
    process,
    /** One batch, as the mover of another process would move it unless told who is awaited. */
    move: (isAwaited: MoverDeps['isAwaited'] = () => false): Promise<ReadonlyMap<string, MoveOutcome>> =>
      moveBatch({ ...deps, isAwaited }).then(({ outcomes }) => outcomes),
    /** An acceptor and its mover, as a process has them; the mover waits to be started. */
    openDesk: (
      changes: Partial<MoverDeps> = {},
    ): { acceptor: Acceptor; mover: Mover; woken: MoverLane[] } => {
      const hands: Hands = { urgent: new Handed(MACHINE_CLOCK), others: new Handed(MACHINE_CLOCK) }
      const woken: MoverLane[] = []
      const acceptor: Acceptor = new Acceptor(changes.db ?? db, process, hands, (lane) => {
        woken.push(lane)
        mover.wake(lane)
      })
      const mover: Mover = createMover({
        ...deps,
        ...changes,
        log,
        hands,
        isAwaited: (id) => acceptor.isAwaited(id),
        onMoved: (outcomes) => acceptor.settle(outcomes),
        onQueued: (id) => acceptor.queue(id),
        onRefused: (id, error) => acceptor.refuse(id, error),
      })
      return { acceptor, mover, woken }
    },
  }
}

/** A row as the API hands it in. */
export function intakeRow(
  changes: Partial<Omit<IntakeRow, 'message'>> & { message?: unknown } = {},
): IntakeRow {
  const { message = orderMail(), ...columns } = changes
  return {
    id: randomUUIDv7(),
    priority: 3,
    stream: 'transactional',
    idempotencyKey: null,
    source: 'test',
    message: JSON.stringify(message),
    ...columns,
  }
}

/** Nobody else writes to the table until `work` is done. */
export async function whileLocked<T>(
  { url }: TestDatabase,
  table: string,
  work: () => Promise<T>,
): Promise<T> {
  const blocker = new Client({ connectionString: url })
  await blocker.connect()
  try {
    await blocker.query(`begin; lock table ${table} in exclusive mode`)
    return await work()
  } finally {
    await blocker.end()
  }
}

/** Of the message with this id; nothing when there is none. */
export async function statusOf({ query }: TestDatabase, id: string): Promise<string[]> {
  const rows = await query<{ status: string }>('select status from mail.message where id = $1', [id])
  return rows.map(({ status }) => status)
}
