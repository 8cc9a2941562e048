import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EXIT_FAILURE, UsageError } from '../../src/commands/exit.ts'
import { runHold, runRelease } from '../../src/commands/hold.ts'
import { readConfig } from '../../src/config.ts'
import { createTestDatabase } from '../support/database.ts'

test('a restored database is held and released from the command line', async (t) => {
  const database = await createTestDatabase(t)
  const config = readConfig({ DATABASE_URL: database.url, LOG_LEVEL: 'silent' })
  await assert.rejects(runHold(config, []), UsageError)
  await assert.rejects(runRelease(config, []), UsageError)
  assert.equal(await runHold(config, ['backup', 'of', 'Monday']), 0)
  assert.equal(await runRelease(config, ['everything']), EXIT_FAILURE)
  const held = await database.query<{ reason: string }>('select reason from mail.held')
  assert.deepEqual(held, [{ reason: 'backup of Monday' }])
  assert.equal(await runRelease(config, ['send']), 0)
  assert.deepEqual(await database.query('select from mail.held'), [])
})
