import { type Family, stateSet } from './family.ts'
import type { SystemState } from './queries.ts'

const BREAKER_STATES = ['closed', 'half_open', 'open'] as const
const HOLDS = ['paused', 'blocked', 'rationed', 'unusable'] as const
const STAGE = ['stage', 'stream', 'provider']
const BOTH = ['stream', 'provider']
const BUCKET = ['provider', 'bucket']

/** What is the same whichever process is asked: how much waits, and what keeps it from going. */
export const SYSTEM_FAMILIES: readonly Family<SystemState>[] = [
  {
    name: 'sluice_waiting_messages',
    type: 'gauge',
    help: "Messages that wait: ready could go now, deferred later, in_flight are in a worker's hands. mail.why(id) says why one does.",
    labels: [...STAGE, 'state'],
    read: ({ depth }) =>
      depth.flatMap(({ stage, stream, provider, ready, deferred, in_flight }) => [
        [ready, stage, stream, provider, 'ready'],
        [deferred, stage, stream, provider, 'deferred'],
        [in_flight, stage, stream, provider, 'in_flight'],
      ]),
  },
  {
    name: 'sluice_waiting_oldest_age_seconds',
    type: 'gauge',
    help: 'How long the oldest message that could go now has waited; 0 when none does.',
    labels: STAGE,
    read: ({ depth }) => depth.map((each) => [each.oldest_age_s, each.stage, each.stream, each.provider]),
  },
  {
    name: 'sluice_waiting_growth_per_second',
    type: 'gauge',
    help: 'By how many messages a second what waits grew over the last minute. Above 0 for minutes is trouble before the depth is.',
    labels: STAGE,
    read: ({ depth }) => depth.map((each) => [each.growth_per_s, each.stage, each.stream, each.provider]),
  },
  {
    name: 'sluice_depth_age_seconds',
    type: 'gauge',
    help: 'How long ago what waits was measured. The process that leads does so every second; past 30 s the numbers are left out, and mail.leader says who led last.',
    labels: [],
    read: ({ depth_age_s }) => [[depth_age_s]],
  },
  {
    name: 'sluice_error_ratio',
    type: 'gauge',
    help: 'Share of attempts in the last full minute that did not end with the message sent. Not there while nothing is attempted.',
    labels: BOTH,
    read: ({ flow }) => flow.map((each) => [each.error_rate, each.stream, each.provider]),
  },
  {
    name: 'sluice_retry_ratio',
    type: 'gauge',
    help: 'Share of attempts in the last full minute that were not the first of their message.',
    labels: BOTH,
    read: ({ flow }) => flow.map((each) => [each.retry_rate, each.stream, each.provider]),
  },
  {
    name: 'sluice_bucket_tokens',
    type: 'gauge',
    help: 'Messages (or requests) that may go to the provider at once. Near 0 while mail waits: its quota is what limits.',
    labels: BUCKET,
    read: ({ buckets }) => buckets.map((each) => [each.tokens, each.provider, each.bucket]),
  },
  {
    name: 'sluice_bucket_capacity_tokens',
    type: 'gauge',
    help: 'Tokens that may gather in the bucket.',
    labels: BUCKET,
    read: ({ buckets }) => buckets.map((each) => [each.capacity, each.provider, each.bucket]),
  },
  {
    name: 'sluice_bucket_used_ratio',
    type: 'gauge',
    help: 'What went to the provider in the last full minute, as a share of what the bucket allows (quota × utilization). Near 1 for hours: ask the provider for more, or add one to the route.',
    labels: BUCKET,
    read: ({ buckets }) => buckets.map((each) => [each.used_ratio, each.provider, each.bucket]),
  },
  {
    name: 'sluice_provider_breaker_state',
    type: 'gauge',
    help: "1 for the present state of the provider's breaker. open: nothing goes to it; half_open: a few probes do. mail.provider_status has the reason.",
    labels: ['provider', 'state'],
    read: ({ providers }) =>
      providers.flatMap(({ provider, breaker }) => stateSet(BREAKER_STATES, breaker, provider)),
  },
  {
    name: 'sluice_provider_held',
    type: 'gauge',
    help: '1 when nothing goes to the provider because it is paused (mail.resume), blocked (it asked to wait), rationed (it says that little remains: urgent streams only) or unusable (a worker could not open it).',
    labels: ['provider', 'reason'],
    read: ({ providers }) =>
      providers.flatMap((each) =>
        HOLDS.map((reason) => [each[reason] ? 1 : 0, each.provider, reason] as const),
      ),
  },
  {
    name: 'sluice_stream_paused',
    type: 'gauge',
    help: '1 when the stream was paused: its mail is accepted, and waits for mail.resume.',
    labels: ['stream'],
    read: ({ streams }) => streams.map(({ stream, paused }) => [paused ? 1 : 0, stream]),
  },
  {
    name: 'sluice_stream_outside_window',
    type: 'gauge',
    help: '1 while none of the send windows of the stream is open: its mail waits until one is.',
    labels: ['stream'],
    read: ({ streams }) => streams.map((each) => [each.outside_window ? 1 : 0, each.stream]),
  },
  {
    name: 'sluice_stream_send_within_seconds',
    type: 'gauge',
    help: "Within how long the stream's mail should be sent: mail.stream.send_within_s. Compare with the quantiles of sluice_time_to_send_seconds.",
    labels: ['stream'],
    read: ({ streams }) => streams.map(({ stream, send_within_s }) => [send_within_s, stream]),
  },
  {
    name: 'sluice_alerts_firing',
    type: 'gauge',
    help: "Alerts of Sluice's own that fire, by rule: mail.alert has what, since when, and the next command.",
    labels: ['rule'],
    read: ({ alerts }) => alerts.map(({ rule, firing }) => [firing, rule]),
  },
  {
    name: 'sluice_dead_letters',
    type: 'gauge',
    help: 'Messages that failed for good and wait for a person: see mail.dlq_summary. Counted up to 10,000, estimated beyond.',
    labels: [],
    read: ({ dead_letters }) => [[dead_letters]],
  },
  {
    name: 'sluice_intake_losses_total',
    type: 'counter',
    help: 'Crashes of Postgres that emptied the unlogged intake: mail.intake_loss.',
    labels: [],
    read: ({ losses }) => [[losses.crashes]],
  },
  {
    name: 'sluice_intake_lost_messages_at_least_total',
    type: 'counter',
    help: 'Buffered messages that these crashes took for certain. Durable ones are never among them.',
    labels: [],
    read: ({ losses }) => [[losses.at_least]],
  },
  {
    name: 'sluice_intake_lost_messages_at_most_total',
    type: 'counter',
    help: 'Buffered messages that these crashes took at most.',
    labels: [],
    read: ({ losses }) => [[losses.at_most]],
  },
  {
    name: 'sluice_sending_held',
    type: 'gauge',
    help: '1 while nothing at all is sent until a person says so: the database went back in time, or somebody held it. mail.held, mail.release.',
    labels: [],
    read: ({ held }) => [[Number(held)]],
  },
  {
    name: 'sluice_workers',
    type: 'gauge',
    help: 'Worker processes that are alive, by mail.worker. 0: nothing is sent.',
    labels: [],
    read: ({ workers }) => [[workers]],
  },
  {
    name: 'sluice_scale_workers',
    type: 'gauge',
    help: 'Worker processes that are needed now, by mail.scale(), within mail.scale_setting: what an autoscaler should follow.',
    labels: [],
    read: ({ scale }) => [[scale.workers]],
  },
  {
    name: 'sluice_scale_workers_current',
    type: 'gauge',
    help: 'Worker processes that mail.scale() compares with.',
    labels: [],
    read: ({ scale }) => [[scale.current_workers]],
  },
  {
    name: 'sluice_webhook_deliveries_waiting',
    type: 'gauge',
    help: 'Events that are still to be told to the app, first attempts and later ones. Counted up to 10,000.',
    labels: [],
    read: ({ webhooks }) => [[webhooks.waiting]],
  },
  {
    name: 'sluice_webhook_endpoint_failures',
    type: 'gauge',
    help: 'Requests to an endpoint of the app that failed since the last that did not; mail.webhook_endpoint_status has the reason. After five days of failures it is disabled.',
    labels: ['endpoint'],
    read: ({ webhooks }) => webhooks.endpoints.map(({ endpoint, failures }) => [failures, endpoint]),
  },
  {
    name: 'sluice_webhook_endpoint_disabled',
    type: 'gauge',
    help: '1 when an endpoint of the app is told nothing: mail.webhook_enable.',
    labels: ['endpoint'],
    read: ({ webhooks }) => webhooks.endpoints.map(({ endpoint, disabled }) => [disabled ? 1 : 0, endpoint]),
  },
  {
    name: 'sluice_feedback_deliveries',
    type: 'gauge',
    help: 'What providers told that is not applied: waiting, or parked because it could not be read (mail.feedback_parked, mail.feedback_retry). Counted up to 10,000.',
    labels: ['state'],
    read: ({ feedback }) => [
      [feedback.waiting, 'waiting'],
      [feedback.parked, 'parked'],
    ],
  },
  {
    name: 'sluice_feedback_unmatched',
    type: 'gauge',
    help: 'Events of providers about messages that are not known here: tried again (waiting), or given_up. Many: the source tells of mail that another system sent. Counted up to 10,000.',
    labels: ['state'],
    read: ({ feedback }) => [
      [feedback.unmatched_waiting, 'waiting'],
      [feedback.unmatched_given_up, 'given_up'],
    ],
  },
]
