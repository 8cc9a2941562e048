import type { Pool } from 'pg'
import { Registry } from 'prom-client'
import type { Catalog } from '../catalog.ts'
import type { Config } from '../config.ts'
import { isDatabaseUnavailable } from '../db/connection-error.ts'
import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import type { Meter } from '../meter.ts'
import { VERSION } from '../version.ts'
import { type Family, register } from './family.ts'
import { type AnsweredRequest, createRequestMetrics } from './http-requests.ts'
import { nodeMetrics } from './node-metrics.ts'
import { POSTGRES_FAMILIES, SIZE_FAMILIES, type WatchedPostgres, watchHeld } from './postgres.ts'
import { PROCESS_FAMILIES, type Pressure, type ProcessState, type SlotUse } from './process.ts'
import { POSTGRES_STATE, readOne, SIZES, type Sizes, SYSTEM_STATE, type SystemState } from './queries.ts'
import { Reading } from './reading.ts'
import { SYSTEM_FAMILIES } from './system.ts'
import { registerWork } from './work.ts'

/**
 * What `/metrics` answers. Two kinds: what this process has done and holds, which is in memory and always answered; and
 * how the whole system is doing, which is read from Postgres, the same in every process. While the database does not
 * answer, the second kind is left out and `sluice_database_up` is 0.
 */

/** A scrape is answered within a second whatever the database does. */
const WAIT_MS = 700

/** Scrapes come every 15 to 60 s; several scrapers, and a person who reloads, share a reading. */
const READINGS = {
  system: { freshMs: 4_000, keepMs: 20_000 },
  postgres: { freshMs: 10_000, keepMs: 60_000 },
  // Takes a look at every file of the database.
  sizes: { freshMs: 120_000, keepMs: 600_000 },
} as const

export type MetricsDeps = {
  readonly db: Database
  readonly log: Log
  readonly meter: Pick<Meter, 'totals'>
  readonly catalog: { readonly current: Catalog }
  readonly pool: Pick<Pool, 'totalCount' | 'idleCount' | 'waitingCount'>
  readonly config: Pick<Config, 'roles' | 'databaseConnections'>
  readonly slots: () => readonly SlotUse[]
  readonly pressure: () => Pressure | undefined
}

export type Scraped = { readonly contentType: string; readonly text: string }

export type Metrics = {
  scrape(): Promise<Scraped>
  onRequest(request: AnsweredRequest): void
  /** Every metric there is, also those that have no samples now. */
  readonly registry: Registry
}

/** What the database said, as far as it did. */
type Answered = {
  readonly system: SystemState | undefined
  readonly postgres: WatchedPostgres | undefined
  readonly sizes: Sizes | undefined
  readonly isUp: boolean
  readonly ageMs: number | null
}

const NOTHING: Answered = {
  system: undefined,
  postgres: undefined,
  sizes: undefined,
  isUp: false,
  ageMs: null,
}

const DATABASE_FAMILIES: readonly Family<Answered>[] = [
  {
    name: 'sluice_database_up',
    type: 'gauge',
    help: '1 when Postgres answers this process. 0: what it is asked for is not there; the process goes on by itself when it is back.',
    labels: [],
    read: ({ isUp }) => [[isUp ? 1 : 0]],
  },
  {
    name: 'sluice_database_reading_age_seconds',
    type: 'gauge',
    help: 'How old the numbers of the whole system are: some seconds, shared by all scrapes; up to 20 while Postgres is slow to answer.',
    labels: [],
    read: ({ ageMs }) => [[ageMs === null ? null : ageMs / 1_000]],
  },
]

/** The names of those that are the same in every process: of these, any one is enough. */
export const SYSTEM_WIDE: ReadonlySet<string> = new Set(
  [...SYSTEM_FAMILIES, ...POSTGRES_FAMILIES, ...SIZE_FAMILIES].map(({ name }) => name),
)

export function createMetrics(deps: MetricsDeps): Metrics {
  const own = new Registry()
  let answered = NOTHING
  register(own, PROCESS_FAMILIES, () => stateOf(deps))
  registerWork(own, () => ({ measures: deps.meter.totals(), catalog: deps.catalog.current }))
  const onRequest = createRequestMetrics(own)
  register(own, DATABASE_FAMILIES, () => answered)
  register(own, SYSTEM_FAMILIES, () => answered.system)
  register(own, POSTGRES_FAMILIES, () => answered.postgres)
  register(own, SIZE_FAMILIES, () => answered.sizes)
  const registry = Registry.merge([nodeMetrics(), own])
  const ask = createReadings(deps)
  return {
    registry,
    onRequest,
    async scrape() {
      // No await between the two: every collector runs before another scrape can put its answers here.
      answered = await ask()
      return { contentType: registry.contentType, text: await registry.metrics() }
    },
  }
}

function stateOf({ pool, config, slots, pressure }: MetricsDeps): ProcessState {
  return {
    version: VERSION,
    roles: [...config.roles],
    slots: slots(),
    pressure: pressure(),
    pool: {
      max: config.databaseConnections,
      total: pool.totalCount,
      idle: pool.idleCount,
      waiting: pool.waitingCount,
    },
  }
}

function createReadings({ db, log }: MetricsDeps): () => Promise<Answered> {
  const onError = (error: unknown) => {
    // While it is away, that is no news, and told by the loops; anything else is for a person to repair.
    const level = isDatabaseUnavailable(error) ? 'debug' : 'warn'
    log[level]({ error }, 'the database could not be read for the metrics')
  }
  const now = () => performance.now()
  const options = { onError, now }
  const system = new Reading({ ...options, ...READINGS.system, read: () => readOne(db, SYSTEM_STATE) })
  const heldFor = watchHeld(now)
  const postgres = new Reading({
    ...options,
    ...READINGS.postgres,
    read: async () => {
      const state = await readOne(db, POSTGRES_STATE)
      return { ...state, held_s: heldFor(state.oldest_xmin) }
    },
  })
  const sizes = new Reading({ ...options, ...READINGS.sizes, read: () => readOne(db, SIZES) })
  return async () => {
    const [own, server, files] = await Promise.all([
      system.get(WAIT_MS),
      postgres.get(WAIT_MS),
      sizes.get(WAIT_MS),
    ])
    if (own === undefined) return NOTHING
    return {
      system: own.value,
      postgres: server?.value,
      sizes: files?.value,
      isUp: true,
      ageMs: own.ageMs,
    }
  }
}
