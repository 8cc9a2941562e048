import assert from 'node:assert/strict'
import { test } from 'node:test'
import { migrate } from '../../src/db/migrate.ts'
import { WorkerSession } from '../../src/db/session.ts'
import { createLog } from '../../src/log.ts'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { startKillablePostgres } from '../support/killable-postgres.ts'

test('a worker whose row was deleted registers anew, though its connection lives', async (t) => {
  const database = await createTestDatabase(t)
  const session = await WorkerSession.open({
    url: database.url,
    role: undefined,
    log: createLog('silent'),
    onBell: () => undefined,
    heartbeatMs: 50,
  })
  database.beforeDrop(() => session.close(true))
  const before = session.number
  await database.query('delete from mail.worker where number = $1', [before])
  const rows = await eventually('a new row', async () => {
    const found = await database.query<{ number: number }>('select number from mail.worker')
    return found.length > 0 && found
  })
  await eventually('its number', async () => session.number !== before)
  assert.deepEqual(rows, [{ number: session.number }])
})

test('a session holds what was claimed under its number: asked anew after a sleep, and not under another number', async (t) => {
  const database = await createTestDatabase(t)
  const session = await WorkerSession.open({
    url: database.url,
    role: undefined,
    log: createLog('silent'),
    onBell: () => undefined,
    heartbeatMs: 3_600_000,
  })
  database.beforeDrop(() => session.close(true))
  const { number } = session
  assert.equal(session.holds(number), true)
  // Nothing was heard of the server for too long; it still answers.
  t.mock.method(performance, 'now', () => 10_000_000)
  const answer = session.holds(number)
  assert.ok(answer instanceof Promise)
  assert.equal(await answer, true)
  assert.equal(session.holds(number), true)
  // A suspended machine's steady clock stood still.
  const now = Date.now()
  t.mock.method(Date, 'now', () => now + 60_000)
  const afterSuspension = session.holds(number)
  assert.ok(afterSuspension instanceof Promise)
  assert.equal(await afterSuspension, true)
  assert.equal(session.holds(number), true)
  // The same, and others took over meanwhile.
  t.mock.method(performance, 'now', () => 20_000_000)
  await database.query('delete from mail.worker where number = $1', [number])
  assert.equal(await session.holds(number), false)
  await eventually('a new number', async () => session.number !== number)
  assert.equal(await session.holds(number), false)
  assert.equal(await session.holds(session.number), true)
})

test('a session keeps its worker while no commit gets through', async (t) => {
  const { url, query } = await startKillablePostgres(t)
  const log = createLog('silent')
  await migrate({ url, log })
  const session = await WorkerSession.open({
    ...{ url, role: undefined, log, heartbeatMs: 3_600_000 },
    onBell: () => undefined,
  })
  const { number } = session
  // Every commit waits for a standby that there is not.
  await query("alter system set synchronous_standby_names = 'nobody'")
  await query('select pg_reload_conf()')
  const waiting: Promise<unknown>[] = []
  await eventually('commits wait', async () => {
    waiting.push(query("comment on database sluice is 'waits'"))
    const rows = await query("select from pg_stat_activity where wait_event = 'SyncRep'")
    return rows.length > 0
  })
  // Long enough since the last beat that the register is told.
  const later = performance.now() + 3_600_000
  t.mock.method(performance, 'now', () => later)
  try {
    assert.equal(await session.holds(number), true)
  } finally {
    await query('alter system reset synchronous_standby_names')
    await query('select pg_reload_conf()')
    await Promise.all(waiting)
    await session.close(false)
  }
})
