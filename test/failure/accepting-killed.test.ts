import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Client } from 'pg'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { countLockWaits } from '../support/lock-waits.ts'
import { orderMail, type SpawnedService, spawnService } from '../support/service.ts'

/** A process is killed while a request with a key is under way, and the caller repeats it at another one. */

const KEY = { 'Idempotency-Key': 'killed' }
const SINGLE = orderMail({ subject: 'Killed' })
const BATCH = [SINGLE, SINGLE]

async function storedBy(database: TestDatabase): Promise<string[]> {
  const rows = await database.query<{ id: string }>(
    'select id from mail.message union select id from mail.outbox order by id',
  )
  return rows.map(({ id }) => id)
}

/** Runs `work` while nobody can write this table. */
async function whileLocked(database: TestDatabase, table: string, work: (client: Client) => Promise<void>) {
  const client = new Client({ connectionString: database.url })
  await client.connect()
  try {
    await client.query(`begin; lock table ${table} in share mode`)
    await work(client)
  } finally {
    await client.end()
  }
}

async function killWhenItWaits(client: Client, service: SpawnedService): Promise<void> {
  await eventually('a statement that waits for the lock', async () => (await countLockWaits(client)) > 0)
  service.process.kill('SIGKILL')
  await service.ended
}

for (const [path, body, count] of [
  ['/emails', SINGLE, 1],
  ['/emails/batch', BATCH, 2],
] as const) {
  test(`${path}: killed before the commit, the repeat is accepted once`, async (t) => {
    const database = await createTestDatabase(t)
    const first = await spawnService(t, database.url, { SLUICE_ROLES: 'api' })
    const second = await spawnService(t, database.url, { SLUICE_ROLES: 'api' })
    await whileLocked(database, 'mail.idempotency', async (client) => {
      const broken = assert.rejects(first.request(path, { body, headers: KEY }))
      await killWhenItWaits(client, first)
      await broken
    })
    const repeat = await second.request(path, { body, headers: KEY })
    assert.equal(repeat.status, 200, await repeat.clone().text())
    assert.equal((await storedBy(database)).length, count)
  })

  test(`${path}: killed after the commit, the repeat gets the same ids from another process`, async (t) => {
    const database = await createTestDatabase(t)
    const first = await spawnService(t, database.url, { SLUICE_ROLES: 'api' })
    const answered = await first.request(path, { body, headers: KEY })
    const before = await answered.json()
    first.process.kill('SIGKILL')
    await first.ended
    const second = await spawnService(t, database.url, { SLUICE_ROLES: 'api' })
    const repeat = await second.request(path, { body, headers: KEY })
    assert.deepEqual([repeat.headers.get('Idempotent-Replayed'), await repeat.json()], ['true', before])
    await eventually('the doors are empty', async () => {
      return (await database.query('select from mail.intake union all select from mail.outbox')).length === 0
    })
    assert.equal((await storedBy(database)).length, count)
  })
}
