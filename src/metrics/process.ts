import { type Family, stateSet } from './family.ts'

/** Sends of one stream through one provider that this worker process may have under way at once, and those it has. */
export type SlotUse = {
  readonly stream: string
  readonly provider: string
  readonly used: number
  readonly total: number
}

export const PRESSURES = ['none', 'soft', 'hard'] as const
export type Pressure = (typeof PRESSURES)[number]

export type ProcessState = {
  readonly version: string
  readonly roles: readonly string[]
  /** Empty in a process that sends nothing. */
  readonly slots: readonly SlotUse[]
  /** Undefined in a process without the API. */
  readonly pressure: Pressure | undefined
  readonly pool: {
    readonly max: number
    readonly total: number
    readonly idle: number
    readonly waiting: number
  }
}

const SLOT = ['stream', 'provider']

export const PROCESS_FAMILIES: readonly Family<ProcessState>[] = [
  {
    name: 'sluice_info',
    type: 'gauge',
    help: 'Always 1; which version runs here, and its roles.',
    labels: ['version', 'roles'],
    read: ({ version, roles }) => [[1, version, roles.join(',')]],
  },
  {
    name: 'sluice_worker_slots',
    type: 'gauge',
    help: 'Requests to a provider that this worker may have under way at once: mail.stream.slots.',
    labels: SLOT,
    read: ({ slots }) => slots.map(({ stream, provider, total }) => [total, stream, provider]),
  },
  {
    name: 'sluice_worker_slots_used',
    type: 'gauge',
    help: "Requests to a provider that are under way. All in use for long while mail waits: more slots or more workers, unless the provider's quota is what limits.",
    labels: SLOT,
    read: ({ slots }) => slots.map(({ stream, provider, used }) => [used, stream, provider]),
  },
  {
    name: 'sluice_intake_pressure',
    type: 'gauge',
    help: '1 for the present level. soft: streams that are not urgent get 429; hard: all mail gets 503. mail.intake_pressure says why.',
    labels: ['level'],
    read: ({ pressure }) => (pressure === undefined ? [] : stateSet(PRESSURES, pressure)),
  },
  {
    name: 'sluice_pool_connections',
    type: 'gauge',
    help: 'Connections of this process to Postgres.',
    labels: ['state'],
    read: ({ pool }) => [
      [pool.idle, 'idle'],
      [pool.total - pool.idle, 'used'],
    ],
  },
  {
    name: 'sluice_pool_connections_max',
    type: 'gauge',
    help: 'Connections that this process may open: SLUICE_DATABASE_CONNECTIONS.',
    labels: [],
    read: ({ pool }) => [[pool.max]],
  },
  {
    name: 'sluice_pool_waiting',
    type: 'gauge',
    help: 'Statements of this process that wait for a connection. Above 0 for long: raise SLUICE_DATABASE_CONNECTIONS, or find what is slow in pg_stat_activity.',
    labels: [],
    read: ({ pool }) => [[pool.waiting]],
  },
]
