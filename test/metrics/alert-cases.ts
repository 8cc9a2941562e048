/**
 * For every alert a course of events in which it fires, and one so close to it that it must not. Values are a minute
 * apart, in promtool's notation: `5x30` is 5 for half an hour, `0+60x30` grows by one a second.
 */
export type AlertCase = {
  readonly fires: Readonly<Record<string, string>>
  readonly quiet: Readonly<Record<string, string>>
  /** When it is looked at, in minutes. */
  readonly at: number
  /** Beside `alertname` and `severity`. */
  readonly labels?: Readonly<Record<string, string>>
}

const A = 'job="sluice",instance="a:1"'
const B = 'job="sluice",instance="b:1"'
const T = 'stream="transactional"'
const TD = `${T},provider="default"`
const TRANSACTIONAL = { stream: 'transactional', provider: 'default' }

export const ALERT_CASES: Readonly<Record<string, AlertCase>> = {
  SluiceProcessDown: {
    fires: { [`up{${A}}`]: '0x10' },
    quiet: { [`up{${A}}`]: '1x10', 'up{job="other",instance="c:1"}': '0x10' },
    at: 3,
    labels: { job: 'sluice', instance: 'a:1' },
  },
  SluiceDatabaseAway: {
    fires: { [`sluice_database_up{${A}}`]: '0x10', [`sluice_database_up{${B}}`]: '1x10' },
    quiet: { [`sluice_database_up{${A}}`]: '1 0 1 0 1 0' },
    at: 4,
    labels: { job: 'sluice', instance: 'a:1' },
  },
  SluiceNoWorker: {
    fires: { [`sluice_workers{${A}}`]: '0x10', [`sluice_workers{${B}}`]: '0x10' },
    quiet: { [`sluice_workers{${A}}`]: '0x10', [`sluice_workers{${B}}`]: '1x10' },
    at: 3,
  },
  SluiceWorkersMissing: {
    fires: { [`sluice_workers{${A}}`]: '3x60 2x20' },
    // Twice as many for a while, as when a deployment brings the new ones first.
    quiet: { [`sluice_workers{${A}}`]: '3x40 6x10 3x20' },
    at: 68,
  },
  SluiceWorkersNeeded: {
    fires: { [`sluice_scale_workers{${A}}`]: '4x30', [`sluice_scale_workers_current{${A}}`]: '2x30' },
    quiet: { [`sluice_scale_workers{${A}}`]: '4x30', [`sluice_scale_workers_current{${A}}`]: '4x30' },
    at: 20,
  },
  SluiceNothingMeasures: {
    fires: { [`sluice_depth_age_seconds{${A}}`]: '0+60x20' },
    quiet: { [`sluice_depth_age_seconds{${A}}`]: '1x20' },
    at: 5,
  },
  SluiceIntakeLoss: {
    fires: { [`sluice_intake_losses_total{${A}}`]: '2x10 3x20' },
    quiet: { [`sluice_intake_losses_total{${A}}`]: '2x30' },
    at: 20,
  },
  SluiceRefusesMail: {
    fires: { [`sluice_intake_pressure{${A},level="soft"}`]: '1x10' },
    quiet: {
      [`sluice_intake_pressure{${A},level="none"}`]: '1x10',
      [`sluice_intake_pressure{${A},level="soft"}`]: '0x10',
    },
    at: 3,
    labels: { level: 'soft' },
  },
  SluiceLag: {
    // Both processes say the same: it is no more than each says.
    fires: {
      [`sluice_waiting_messages{${A},stage="dispatch",${TD},state="ready"}`]: '10001x20',
      [`sluice_waiting_messages{${B},stage="dispatch",${TD},state="ready"}`]: '10001x20',
    },
    quiet: {
      [`sluice_waiting_messages{${A},stage="dispatch",${TD},state="ready"}`]: '6000x20',
      [`sluice_waiting_messages{${B},stage="dispatch",${TD},state="ready"}`]: '6000x20',
      [`sluice_waiting_messages{${B},stage="dispatch",${TD},state="deferred"}`]: '60000x20',
    },
    at: 10,
    labels: { stage: 'dispatch', ...TRANSACTIONAL },
  },
  SluiceMailStuck: {
    fires: {
      [`sluice_waiting_oldest_age_seconds{${A},stage="dispatch",${TD}}`]: '301x20',
      [`sluice_stream_send_within_seconds{${A},${T}}`]: '5x20',
      [`sluice_stream_paused{${A},${T}}`]: '0x20',
      [`sluice_stream_outside_window{${A},${T}}`]: '0x20',
    },
    quiet: {
      [`sluice_waiting_oldest_age_seconds{${A},stage="dispatch",${TD}}`]: '301x20',
      [`sluice_stream_send_within_seconds{${A},${T}}`]: '5x20',
      // Paused, and then outside its window.
      [`sluice_stream_paused{${A},${T}}`]: '1x7 0x13',
      [`sluice_stream_outside_window{${A},${T}}`]: '0x7 1x13',
    },
    at: 10,
    labels: { stage: 'dispatch', ...TRANSACTIONAL },
  },
  SluiceGrowth: {
    fires: {
      [`sluice_waiting_growth_per_second{${A},stage="dispatch",${TD}}`]: '20x30',
      [`sluice_waiting_messages{${A},stage="dispatch",${TD},state="ready"}`]: '2000+1200x30',
    },
    quiet: {
      [`sluice_waiting_growth_per_second{${A},stage="dispatch",${TD}}`]: '20x13 -30x2 20x15',
      [`sluice_waiting_messages{${A},stage="dispatch",${TD},state="ready"}`]: '2000+1200x30',
    },
    at: 20,
    labels: { instance: 'a:1' },
  },
  SluiceSlow: {
    fires: {
      [`sluice_time_to_send_seconds_bucket{${A},${T},le="5"}`]: '0+10x30',
      [`sluice_time_to_send_seconds_bucket{${A},${T},le="10"}`]: '0+60x30',
      [`sluice_time_to_send_seconds_bucket{${A},${T},le="+Inf"}`]: '0+60x30',
      [`sluice_stream_send_within_seconds{${A},${T}}`]: '5x30',
    },
    quiet: {
      [`sluice_time_to_send_seconds_bucket{${A},${T},le="5"}`]: '0+59x30',
      [`sluice_time_to_send_seconds_bucket{${A},${T},le="10"}`]: '0+60x30',
      [`sluice_time_to_send_seconds_bucket{${A},${T},le="+Inf"}`]: '0+60x30',
      [`sluice_stream_send_within_seconds{${A},${T}}`]: '5x30',
    },
    at: 20,
    labels: { stream: 'transactional' },
  },
  SluiceErrors: {
    fires: {
      [`sluice_error_ratio{${A},${TD}}`]: '0.06x30',
      [`sluice_provider_requests_total{${A},${TD}}`]: '0+60x30',
    },
    // One message that fails, now and then, is no rate.
    quiet: {
      [`sluice_error_ratio{${A},${TD}}`]: '1x30',
      [`sluice_provider_requests_total{${A},${TD}}`]: '0+1x30',
    },
    at: 20,
    labels: TRANSACTIONAL,
  },
  SluiceRetries: {
    fires: {
      [`sluice_retry_ratio{${A},${TD}}`]: '0.3x30',
      [`sluice_provider_requests_total{${A},${TD}}`]: '0+60x30',
    },
    quiet: {
      [`sluice_retry_ratio{${A},${TD}}`]: '0.2x30',
      [`sluice_provider_requests_total{${A},${TD}}`]: '0+60x30',
    },
    at: 20,
    labels: TRANSACTIONAL,
  },
  SluiceBreakerOpen: {
    // Half-open in between: it is not well before it is closed.
    fires: {
      [`sluice_provider_breaker_state{${A},provider="default",state="open"}`]: '1 1 0 1 1 0 1',
      [`sluice_provider_breaker_state{${A},provider="default",state="half_open"}`]: '0 0 1 0 0 1 0',
      [`sluice_provider_breaker_state{${A},provider="default",state="closed"}`]: '0x7',
    },
    quiet: {
      [`sluice_provider_breaker_state{${A},provider="default",state="open"}`]: '0 1 0 0 1 0 0',
      [`sluice_provider_breaker_state{${A},provider="default",state="half_open"}`]: '0x7',
      [`sluice_provider_breaker_state{${A},provider="default",state="closed"}`]: '1 0 1 1 0 1 1',
    },
    at: 5,
    labels: { provider: 'default' },
  },
  SluiceProviderHeld: {
    fires: { [`sluice_provider_held{${A},provider="default",reason="unusable"}`]: '1x20' },
    quiet: {
      [`sluice_provider_held{${A},provider="default",reason="unusable"}`]: '0x20',
      [`sluice_provider_held{${A},provider="default",reason="paused"}`]: '1x20',
    },
    at: 10,
    labels: { provider: 'default', reason: 'unusable' },
  },
  SluicePausedForLong: {
    fires: { [`sluice_stream_paused{${A},stream="marketing"}`]: '1x300' },
    quiet: { [`sluice_stream_paused{${A},stream="marketing"}`]: '1x200 0x1 1x99' },
    at: 250,
    labels: { stream: 'marketing' },
  },
  SluiceQuotaUsedUp: {
    fires: {
      [`sluice_bucket_used_ratio{${A},provider="default",bucket="second"}`]: '1x60',
      [`sluice_waiting_messages{${A},stage="dispatch",${TD},state="ready"}`]: '5000x60',
    },
    quiet: {
      [`sluice_bucket_used_ratio{${A},provider="default",bucket="second"}`]: '1x60',
      [`sluice_waiting_messages{${A},stage="dispatch",${TD},state="ready"}`]: '10x60',
    },
    at: 40,
    labels: { provider: 'default', bucket: 'second' },
  },
  SluiceSlotsUsedUp: {
    fires: {
      [`sluice_worker_slots_used{${A},${TD}}`]: '20x30',
      [`sluice_worker_slots{${A},${TD}}`]: '20x30',
      [`sluice_waiting_messages{${A},stage="dispatch",${TD},state="ready"}`]: '5000x30',
    },
    // Two workers, one of them idle.
    quiet: {
      [`sluice_worker_slots_used{${A},${TD}}`]: '20x30',
      [`sluice_worker_slots{${A},${TD}}`]: '20x30',
      [`sluice_worker_slots_used{${B},${TD}}`]: '0x30',
      [`sluice_worker_slots{${B},${TD}}`]: '20x30',
      [`sluice_waiting_messages{${A},stage="dispatch",${TD},state="ready"}`]: '5000x30',
    },
    at: 20,
    labels: TRANSACTIONAL,
  },
  SluiceProcessingDropped: {
    fires: {
      [`sluice_messages_processed_total{${A},${T}}`]: '0+60x30',
      [`sluice_messages_accepted_total{${B},${T}}`]: '0+600x30',
      [`sluice_waiting_messages{${A},stage="processing",${T},provider="",state="ready"}`]: '2000x30',
    },
    quiet: {
      [`sluice_messages_processed_total{${A},${T}}`]: '0+300x30',
      [`sluice_messages_processed_total{${B},${T}}`]: '0+290x30',
      [`sluice_messages_accepted_total{${B},${T}}`]: '0+600x30',
      [`sluice_waiting_messages{${A},stage="processing",${T},provider="",state="ready"}`]: '2000x30',
    },
    at: 20,
  },
  SluiceDeadLetters: {
    fires: { [`sluice_dead_letters{${A}}`]: '101x20' },
    quiet: { [`sluice_dead_letters{${A}}`]: '60x20', [`sluice_dead_letters{${B}}`]: '60x20' },
    at: 10,
  },
  SluiceDeadLettersGrow: {
    fires: { [`sluice_messages_dead_total{${A},${T},provider=""}`]: '0+5x30' },
    quiet: { [`sluice_messages_dead_total{${A},${T},provider=""}`]: '0+3x30' },
    at: 20,
    labels: { stream: 'transactional' },
  },
  SluiceWebhookFails: {
    fires: { [`sluice_webhook_endpoint_failures{${A},endpoint="e"}`]: '6x30' },
    quiet: {
      [`sluice_webhook_endpoint_failures{${A},endpoint="e"}`]: '5x30',
      [`sluice_webhook_endpoint_disabled{${A},endpoint="e"}`]: '0x30',
    },
    at: 20,
    labels: { endpoint: 'e' },
  },
  SluiceFeedbackParked: {
    fires: { [`sluice_feedback_deliveries{${A},state="parked"}`]: '1x30' },
    quiet: {
      [`sluice_feedback_deliveries{${A},state="parked"}`]: '0x30',
      [`sluice_feedback_deliveries{${A},state="waiting"}`]: '90x30',
    },
    at: 20,
  },
  SluiceVacuumHeldBack: {
    fires: { [`sluice_postgres_oldest_transaction_age_seconds{${A}}`]: '0+60x20' },
    quiet: { [`sluice_postgres_oldest_transaction_age_seconds{${A}}`]: '0+60x9 0x11' },
    at: 15,
  },
  SluiceDeadRows: {
    fires: {
      [`sluice_postgres_table_dead_rows{${A},table="mail.message"}`]: '200000x90',
      [`sluice_postgres_table_live_rows{${A},table="mail.message"}`]: '1000x90',
    },
    quiet: {
      [`sluice_postgres_table_dead_rows{${A},table="mail.message"}`]: '200000x90',
      [`sluice_postgres_table_live_rows{${A},table="mail.message"}`]: '1000000x90',
    },
    at: 70,
    labels: { table: 'mail.message' },
  },
  SluiceConnectionsUsedUp: {
    fires: {
      [`sluice_postgres_connections{${A}}`]: '91x20',
      [`sluice_postgres_connections_max{${A}}`]: '100x20',
    },
    quiet: {
      [`sluice_postgres_connections{${A}}`]: '90x20',
      [`sluice_postgres_connections_max{${A}}`]: '100x20',
    },
    at: 10,
  },
  SluicePoolWaits: {
    fires: { [`sluice_pool_waiting{${A}}`]: '3x20' },
    quiet: { [`sluice_pool_waiting{${A}}`]: '3 3 0 3 3 0 3 3 0 3 3 0' },
    at: 10,
    labels: { job: 'sluice', instance: 'a:1' },
  },
  SluiceApiFails: {
    fires: {
      [`sluice_http_requests_total{${A},method="POST",route="/emails",status="5xx"}`]: '0+20x30',
      [`sluice_http_requests_total{${A},method="POST",route="/emails",status="2xx"}`]: '0+600x30',
    },
    quiet: {
      [`sluice_http_requests_total{${A},method="POST",route="/emails",status="5xx"}`]: '0+5x30',
      [`sluice_http_requests_total{${A},method="POST",route="/emails",status="2xx"}`]: '0+600x30',
      [`sluice_http_requests_total{${A},method="POST",route="/emails",status="4xx"}`]: '0+600x30',
    },
    at: 20,
  },
  SluiceEventLoopBlocked: {
    fires: { [`nodejs_eventloop_lag_p99_seconds{${A}}`]: '0.6x20' },
    quiet: { [`nodejs_eventloop_lag_p99_seconds{${A}}`]: '0.6 0.6 0.6 0.1 0.6 0.6 0.6 0.1 0.6 0.6 0.1' },
    at: 10,
    labels: { job: 'sluice', instance: 'a:1' },
  },
}
