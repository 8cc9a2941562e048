import type { Registry } from 'prom-client'
import type { Catalog } from '../catalog.ts'
import { type Measures, type TallyKind, TIME_BOUNDS_S, type TimedKind } from '../meter.ts'
import { CountedHistogram, type Distribution } from './counted-histogram.ts'
import { type Family, register, type Sample } from './family.ts'

/** What this process has done since it started: see meter.ts. */
export type Work = { readonly measures: Measures; readonly catalog: Catalog }

const BY_STREAM = ['stream'] as const
const BY_BOTH = ['stream', 'provider'] as const
/** The provider is empty where none was chosen yet. */
const BEFORE_ROUTING = ['']

type Counted = {
  readonly kind: TallyKind
  readonly name: string
  readonly help: string
  readonly labels: typeof BY_STREAM | typeof BY_BOTH
  /** Whether it also happens before a provider is chosen. */
  readonly isEarly?: boolean
}

const COUNTED: readonly Counted[] = [
  {
    kind: 'accepted',
    name: 'sluice_messages_accepted_total',
    help: 'Messages that the mover stored, by REST or SQL. What comes in: compare with sluice_messages_sent_total.',
    labels: BY_STREAM,
  },
  {
    kind: 'processed',
    name: 'sluice_messages_processed_total',
    help: 'Messages that were rendered, checked and routed, whatever came of it. Below what is accepted for minutes: look at the stage processing.',
    labels: BY_STREAM,
  },
  {
    kind: 'sent',
    name: 'sluice_messages_sent_total',
    help: 'Messages that a provider took.',
    labels: BY_BOTH,
  },
  {
    kind: 'deferred',
    name: 'sluice_messages_deferred_total',
    help: 'Attempts that failed and will be repeated. When they grow: mail.event of type deferred has the reasons.',
    labels: BY_BOTH,
  },
  {
    kind: 'retried',
    name: 'sluice_messages_retried_total',
    help: 'Attempts that were not the first of their message, whatever came of them.',
    labels: BY_BOTH,
  },
  {
    kind: 'unknown',
    name: 'sluice_messages_unknown_total',
    help: 'Messages whose outcome nobody can know and whose stream holds them: settle them with mail.settle_unknown.',
    labels: BY_BOTH,
  },
  {
    kind: 'dead',
    name: 'sluice_messages_dead_total',
    help: 'Messages that became dead letters. mail.dlq_summary says what they have in common.',
    labels: BY_BOTH,
    isEarly: true,
  },
  {
    kind: 'suppressed',
    name: 'sluice_messages_suppressed_total',
    help: 'Messages that went to nobody, since all their recipients are suppressed.',
    labels: BY_BOTH,
    isEarly: true,
  },
  {
    kind: 'request',
    name: 'sluice_provider_requests_total',
    help: 'Requests made to a provider: of one message, or of a batch.',
    labels: BY_BOTH,
  },
  {
    kind: 'fault',
    name: 'sluice_provider_faults_total',
    help: "Requests that failed for the provider's own reasons (connection, throttling, 5xx, authentication). At 5 % its breaker opens.",
    labels: BY_BOTH,
  },
]

const STAGE = ['stage', 'stream', 'provider']

export const WORK_FAMILIES: readonly Family<Work>[] = [
  ...COUNTED.map(familyOf),
  {
    name: 'sluice_stage_messages_in_total',
    type: 'counter',
    help: 'Messages that came into a stage by the hand of this process; the sum over all processes less those out is what its queue grew by.',
    labels: STAGE,
    read: ({ measures }) =>
      measures.flows.map((each) => [each.cameIn, each.stage, each.stream, each.provider]),
  },
  {
    name: 'sluice_stage_messages_out_total',
    type: 'counter',
    help: 'Messages that left a stage by the hand of this process.',
    labels: STAGE,
    read: ({ measures }) =>
      measures.flows.map((each) => [each.wentOut, each.stage, each.stream, each.provider]),
  },
]

function familyOf({ kind, name, help, labels, isEarly = false }: Counted): Family<Work> {
  return {
    name,
    type: 'counter',
    help,
    labels,
    read: ({ measures, catalog }) => [
      ...zeros(catalog, labels, isEarly),
      ...measures.tallies
        .filter((tally) => tally.kind === kind)
        .map((tally): Sample => [tally.count, ...labels.map((label) => tally[label])]),
    ],
  }
}

/** A counter that appears with its first event hides it: rate() needs a value before. */
function zeros({ streams }: Catalog, labels: readonly string[], isEarly: boolean): Sample[] {
  return [...streams.values()].flatMap(({ name, route }): Sample[] => {
    if (labels === BY_STREAM) return [[0, name]]
    return [...(isEarly ? BEFORE_ROUTING : []), ...route].map((provider) => [0, name, provider])
  })
}

const TIMED: readonly {
  readonly kind: TimedKind
  readonly name: string
  readonly help: string
  readonly label: 'stream' | 'provider'
}[] = [
  {
    kind: 'time_to_send',
    name: 'sluice_time_to_send_seconds',
    help: "From acceptance, or the moment a message was scheduled for, to the provider's acceptance. What users wait for: alert on its quantiles per stream.",
    label: 'stream',
  },
  {
    kind: 'provider_latency',
    name: 'sluice_provider_latency_seconds',
    help: 'How long a request to a provider takes. When it grows, more slots (mail.stream.slots) keep the rate up.',
    label: 'provider',
  },
]

/** Adds what the meter counts to the registry; `work` is asked at each scrape. */
export function registerWork(registry: Registry, work: () => Work): void {
  register(registry, WORK_FAMILIES, work)
  for (const { kind, name, help, label } of TIMED) {
    new CountedHistogram({
      name,
      help,
      labelNames: [label],
      bounds: TIME_BOUNDS_S,
      registers: [registry],
      read: () => distributionsOf(work().measures, kind, label),
    })
  }
}

function distributionsOf({ times }: Measures, kind: TimedKind, label: 'stream' | 'provider'): Distribution[] {
  const ofKind = times.filter((time) => time.kind === kind)
  return [...Map.groupBy(ofKind, (time) => time[label])].map(([name, group]) => {
    const counts = Array<number>(TIME_BOUNDS_S.length + 1).fill(0)
    for (const { bucket, count } of group) counts[bucket] = (counts[bucket] ?? 0) + count
    return { labels: { [label]: name }, counts, sum: group.reduce((sum, { seconds }) => sum + seconds, 0) }
  })
}
