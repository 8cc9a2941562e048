import { Loop } from '../loop.ts'
import { Deliverer, type DelivererDeps } from './deliverer.ts'
import { createFanOutLoop } from './fan-out.ts'
import { listEndpoints } from './queries.ts'

/** Endpoints are rows: what is made, enabled or disabled is noticed within so long. */
const LOOK_EACH_MS = 1_000

/** What a worker does for the app's webhooks: the fan-out (one process at a time), and a deliverer an endpoint. */
export class OutgoingWebhooks {
  readonly #deps: DelivererDeps
  readonly #fanOut: Loop
  readonly #watch: Loop
  readonly #deliverers = new Map<string, Deliverer>()
  /** Of endpoints that were disabled or removed, until their requests under way have ended. */
  readonly #leaving = new Map<Deliverer, Promise<void>>()
  #limit: AbortSignal | undefined

  constructor(deps: DelivererDeps) {
    this.#deps = deps
    this.#fanOut = createFanOutLoop(deps)
    this.#watch = new Loop({
      name: 'webhook endpoints',
      log: deps.log,
      idleMs: LOOK_EACH_MS,
      round: () => this.#look(),
    })
  }

  start(): void {
    this.#fanOut.start()
    this.#watch.start()
  }

  /** Claims no more and lets requests under way finish until `limit`. */
  async stop(limit: AbortSignal): Promise<void> {
    this.#limit = limit
    await Promise.all([this.#fanOut.stop(), this.#watch.stop()])
    await Promise.all([
      ...[...this.#deliverers.values()].map((deliverer) => deliverer.stop(limit)),
      ...[...this.#leaving.keys()].map((deliverer) => deliverer.stop(limit)),
    ])
  }

  async #look(): Promise<boolean> {
    const endpoints = await listEndpoints(this.#deps.db)
    const enabled = new Set(endpoints.filter(({ status }) => status === 'enabled').map(({ id }) => id))
    for (const [id, deliverer] of this.#deliverers) {
      if (enabled.has(id) && !deliverer.isClosed) continue
      this.#deliverers.delete(id)
      this.#leave(deliverer)
    }
    for (const id of enabled) {
      if (this.#deliverers.has(id) || this.#limit !== undefined) continue
      const deliverer = new Deliverer(this.#deps, id)
      this.#deliverers.set(id, deliverer)
      deliverer.start()
    }
    return false
  }

  #leave(deliverer: Deliverer): void {
    const leaving = deliverer
      .stop(new AbortController().signal)
      .catch((error: unknown) => this.#deps.log.warn({ error }, 'a webhook deliverer failed to end'))
      .finally(() => this.#leaving.delete(deliverer))
    this.#leaving.set(deliverer, leaving)
  }
}
