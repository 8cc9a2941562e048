/** A scrape while Postgres is away, or does not answer: without waiting for it, and with nothing that is not known now. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { eventually } from '../support/eventually.ts'
import { startKillablePostgres } from '../support/killable-postgres.ts'
import { type Samples, scrape } from '../support/scrape.ts'
import { spawnService } from '../support/service.ts'
import { startAddress } from '../support/standby.ts'

const LIMIT = { timeout: 90_000 }

/** We promise a second, and the machine is shared; after this Prometheus gives up, by the configuration in docs/monitoring. */
const PATIENCE_MS = 5_000

async function timed(url: string): Promise<Samples> {
  const startedAt = performance.now()
  const samples = await scrape(url)
  const tookMs = performance.now() - startedAt
  assert.ok(tookMs < PATIENCE_MS, `${tookMs} ms`)
  return samples
}

function isOfDatabase(name: string): boolean {
  return /^sluice_(waiting|depth|workers|dead_letters|bucket|provider_(breaker|held)|stream_|postgres_|intake_loss)/.test(
    name,
  )
}

function assertAway(samples: Samples): void {
  assert.equal(samples.get('sluice_database_up'), 0)
  assert.deepEqual([...samples.keys()].filter(isOfDatabase), [])
  assert.equal(samples.get('sluice_messages_accepted_total{stream="transactional"}'), 0)
  assert.ok((samples.get('process_resident_memory_bytes') ?? 0) > 0)
}

const isAway = (samples: Samples) => samples.get('sluice_database_up') === 0 && samples

test(
  'while Postgres is away a scrape has what the process knows, and the rest is back with it',
  LIMIT,
  async (t) => {
    const server = await startKillablePostgres(t)
    const url = new URL(server.url)
    const port = Number(url.port)
    const address = await startAddress(t, port)
    url.port = String(address.port)
    const service = await spawnService(t, url.href)
    const isUp = async () => {
      const samples = await timed(service.url)
      return samples.get('sluice_database_up') === 1 && samples
    }
    const before = await eventually('the database is read', isUp)
    const ofDatabase = (samples: Samples) => [...samples.keys()].filter(isOfDatabase)
    assert.ok(ofDatabase(before).length > 20)
    address.leadTo(undefined)
    assertAway(await eventually('its absence is noticed', async () => isAway(await timed(service.url))))
    address.leadTo(port)
    const after = await eventually('it is there again', isUp)
    assert.ok(ofDatabase(after).length > 20)
  },
)

test('while Postgres hangs a scrape does not wait for it', LIMIT, async (t) => {
  const server = await startKillablePostgres(t)
  const service = await spawnService(t, server.url)
  await eventually(
    'the database is read',
    async () => (await timed(service.url)).get('sluice_database_up') === 1,
  )
  const backends = await server.query<{ pid: number }>(
    "select pid from pg_stat_activity where application_name = 'sluice'",
  )
  const stopped = [server.postmasterPid(), ...backends.map(({ pid }) => pid)]
  t.after(() => {
    for (const pid of stopped) if (isThere(pid)) process.kill(pid, 'SIGCONT')
  })
  for (const pid of stopped) if (isThere(pid)) process.kill(pid, 'SIGSTOP')
  assertAway(await eventually('its silence is noticed', async () => isAway(await timed(service.url))))
  for (const pid of stopped) if (isThere(pid)) process.kill(pid, 'SIGCONT')
  await eventually(
    'it is there again',
    async () => (await timed(service.url)).get('sluice_database_up') === 1,
  )
})

function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
