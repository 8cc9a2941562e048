import { collectDefaultMetrics, Registry } from 'prom-client'

/** Gauges that are called like counters, which Prometheus' own check refuses, read from what Node deprecates. */
const MISNAMED = [
  'nodejs_active_handles_total',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
]

let registry: Registry | undefined

/**
 * CPU, memory, garbage collection and event-loop delay. They are of the process, whatever runs in it, and watch it with
 * a timer and an observer that cannot be stopped: made once.
 */
export function nodeMetrics(): Registry {
  if (registry === undefined) {
    registry = new Registry()
    collectDefaultMetrics({ register: registry })
    for (const name of MISNAMED) registry.removeSingleMetric(name)
  }
  return registry
}
