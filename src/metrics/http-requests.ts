import { Counter, Histogram, type Registry } from 'prom-client'

export type AnsweredRequest = {
  readonly method: string
  /** The pattern, as `/emails/:id`: paths are without number. */
  readonly route: string
  readonly status: number
  readonly seconds: number
}

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])
const BOUNDS_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

/** Counts requests as they are answered. */
export function createRequestMetrics(registry: Registry): (request: AnsweredRequest) => void {
  const registers = [registry]
  const requests = new Counter({
    name: 'sluice_http_requests_total',
    help: 'HTTP requests answered by this process, by the class of the status. 5xx: its log says why; 4xx that grow: a caller sends what is refused.',
    labelNames: ['method', 'route', 'status'],
    registers,
  })
  const durations = new Histogram({
    name: 'sluice_http_request_duration_seconds',
    help: 'From a request to the begin of its answer. POST /emails waits for the commit: when it grows, look at the disk of Postgres first.',
    labelNames: ['route'],
    buckets: BOUNDS_S,
    registers,
  })
  return ({ method, route, status, seconds }) => {
    const named = METHODS.has(method) ? method : 'other'
    requests.inc({ method: named, route, status: `${Math.floor(status / 100)}xx` })
    durations.observe({ route }, seconds)
  }
}
