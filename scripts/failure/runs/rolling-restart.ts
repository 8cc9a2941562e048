import { setTimeout as delay } from 'node:timers/promises'
import { Client } from 'pg'
import { migrate } from '../../../src/db/migrate.ts'
import type { SchemaError } from '../../../src/db/schema-error.ts'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { percentile } from '../../bench/statistics.ts'
import { faultsOf, mergeReports, runClients } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { migrateToNext } from '../next-version.ts'
import { failureRun, type Scene } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { openSlot, type Slot, startPostgres } from '../sluice.ts'

/** Long enough that each stop finds mails under way. */
const SINK_DELAY_MS = 100
/** What an orchestrator gives a process before it kills it. */
const GRACE_S = 30
/** Nobody may wait longer for a lock: the migration gives way after half a second, and commits within a moment. */
const LOCK_LIMIT_S = 5
const SILENT = { info: () => undefined, warn: () => undefined }

/**
 * A deployment under load: every process is stopped by SIGTERM and replaced, one after the other, again and again; then the next
 * version migrates while the processes of this one go on.
 */
export const rollingRestart = failureRun({
  name: 'rolling-restart',
  promise:
    'restarting every process in turn, and migrating under the old ones, loses nothing and sends nothing twice',
  limitMinutes: 20,
  full: { messages: 20_000, rounds: 10, each: 2, perS: 100 },
  short: { messages: 150, rounds: 1, each: 1, perS: 40 },
  perform: async (scene, { messages, rounds, each, perS }) => {
    const { ledger } = scene
    const server = await startPostgres(scene)
    const sink = await startRecordingSink(scene, { delayMs: SINK_DELAY_MS })
    const open = (role: string) => openSlot(scene, server.url, { SMTP_URL: sink.url, SLUICE_ROLES: role })
    const apis: Slot[] = []
    const workers: Slot[] = []
    while (apis.length < each) apis.push(await open('api'))
    while (workers.length < each) workers.push(await open('worker'))
    let asked = 0
    const url = () => {
      asked += 1
      return apis[asked % apis.length]?.current().url ?? ''
    }
    const load = { ledger, clients: 32, perS, url }
    const handingOver = runClients({ ...load, count: messages })
    const drains: Drain[] = []
    for (let round = 0; round < rounds; round += 1) {
      for (const slot of [...apis, ...workers]) drains.push(await restart(slot, scene.say))
    }
    scene.say(`${drains.length} restarts; now the next version migrates`)
    const reports = [await handingOver]
    const upgradeEnded = new AbortController()
    const more = runClients({ ...load, first: messages + 1, count: messages, signal: upgradeEnded.signal })
    const upgraded = await upgrade(server, (onGiveWay) => migrateToNext(scene, server.url, onGiveWay))
    upgradeEnded.abort()
    reports.push(await more)
    // How every process of this version begins.
    const refusal = await migrate({ url: server.url, log: SILENT }).then(
      () => 'was taken',
      (error: SchemaError) => error.code,
    )
    await untilDrained(server, ledger)
    const clients = mergeReports(reports)
    const p95 = percentile(
      drains.map(({ tookS }) => tookS),
      95,
    )
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      broken: [
        ...drains.filter(({ code }) => code !== 0).map(({ code }) => `a stopped process ended with ${code}`),
        ...(p95 > GRACE_S ? [`processes took ${p95} s to stop (p95), ${GRACE_S} are given`] : []),
        ...faultsOf(clients),
        ...(upgraded.longestWaitS > LOCK_LIMIT_S
          ? [`somebody waited ${upgraded.longestWaitS} s for a lock`]
          : []),
        ...(refusal === 'database_newer' ? [] : [`an older process on the newer schema: ${refusal}`]),
      ],
      figures: {
        restarts: drains.length,
        'drain s (p95)': p95,
        'requests without an answer': clients.broken,
        'answers 503': clients.refused.get(503) ?? 0,
        'migration s': upgraded.tookS,
        'migration gave way': upgraded.gaveWay,
        'longest wait for a lock s': upgraded.longestWaitS,
      },
    }
  },
})

type Drain = { readonly code: number | null; readonly tookS: number }

/** One process as an orchestrator replaces it; how it ended, and how long that took. */
async function restart(slot: Slot, say: Scene['say']): Promise<Drain> {
  const startedAt = performance.now()
  const ended = slot
    .current()
    .ended.then((code) => ({ code, tookS: (performance.now() - startedAt) / 1_000 }))
  const stopping = slot.current()
  await slot.replace('SIGTERM')
  const drain = await ended
  if (drain.code !== 0) say(stopping.output().split('\n').slice(-8).join('\n'))
  return drain
}

type Upgraded = { readonly tookS: number; readonly gaveWay: number; readonly longestWaitS: number }

/** The migration, with a reader in its way until it gave way twice; and how long anybody waited for a lock meanwhile. */
async function upgrade(
  server: KillablePostgres,
  migrate: (onGiveWay: () => void) => Promise<void>,
): Promise<Upgraded> {
  const done = new AbortController()
  const watching = watchLocks(server, done.signal)
  const reader = new Client({ connectionString: server.url })
  await reader.connect()
  await reader.query('begin')
  await reader.query('select from mail.message limit 1')
  const startedAt = performance.now()
  let gaveWay = 0
  await migrate(() => {
    gaveWay += 1
    if (gaveWay === 2) void reader.end()
  })
  const tookS = (performance.now() - startedAt) / 1_000
  done.abort()
  return { tookS, gaveWay, longestWaitS: await watching }
}

/** Seconds: the longest anybody but the migration was seen waiting for a lock. */
async function watchLocks(server: KillablePostgres, until: AbortSignal): Promise<number> {
  const client = new Client({ connectionString: server.url })
  await client.connect()
  let longest = 0
  while (!until.aborted) {
    const { rows } = await client.query<{ s: number | null }>(
      `select max(extract(epoch from clock_timestamp() - query_start))::double precision as s
       from pg_stat_activity where wait_event_type = 'Lock' and application_name <> 'sluice migrate'`,
    )
    longest = Math.max(longest, rows[0]?.s ?? 0)
    await delay(50)
  }
  await client.end()
  return longest
}
