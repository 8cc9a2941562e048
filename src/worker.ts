import { ByteRoom } from './byte-room.ts'
import { type Catalog, type Provider, settingsOf } from './catalog.ts'
import { WorkerSession } from './db/session.ts'
import { AttachmentStore } from './dispatch/attachment-store.ts'
import { Dispatcher } from './dispatch/dispatcher.ts'
import { Health } from './dispatch/health.ts'
import { openTransport, TransportSettingsError } from './dispatch/open-transport.ts'
import { tellUsable } from './dispatch/pacing.ts'
import { readAttachments } from './dispatch/queries.ts'
import { Settler } from './dispatch/settler.ts'
import type { Transport } from './dispatch/transport.ts'
import { applyFeedback } from './feedback/apply.ts'
import { createUnmatchedLoop } from './feedback/unmatched.ts'
import { createFeedbackLoop } from './feedback/worker.ts'
import { type InboxSink, startInboxSink } from './inbox/sink.ts'
import { Loop } from './loop.ts'
import type { SlotUse } from './metrics/process.ts'
import { AttachmentFetcher } from './processing/attachment-fetcher.ts'
import { createProcessingLanes, type ProcessingLane } from './processing/worker.ts'
import { createSchedulerLoop } from './schedule/scheduler.ts'
import type { Core } from './service.ts'
import { OutgoingWebhooks } from './webhooks/outgoing-webhooks.ts'

/** Half of the second within which a pause, a breaker and new settings are to be noticed. */
const LOOK_EACH_MS = 500
/** For attachments being fetched by URL; one alone may have 40 MB. */
const FETCH_ROOM_BYTES = 64 * 1_024 * 1_024

/**
 * The role `worker`: the schedule, processing and dispatch of every stream, under one registered number. Streams and
 * providers that appear while it runs get their loops within a second.
 */
export class Worker {
  readonly #core: Core
  readonly #session: WorkerSession
  readonly #settler: Settler
  readonly #processing = new Map<string, ProcessingLane[]>()
  readonly #dispatchers = new Map<string, Dispatcher>()
  readonly #health: Health
  readonly #attachments: AttachmentStore
  /** By provider: what it was opened with, and the transport unless it could not be opened. */
  readonly #transports = new Map<string, { settings: string; transport: Transport | undefined }>()
  readonly #inbox: InboxSink | undefined
  readonly #fetcher: AttachmentFetcher
  readonly #watch: Loop
  readonly #feedback: readonly Loop[]
  readonly #scheduler: Loop
  readonly #webhooks: OutgoingWebhooks
  /** Who may send, as of the latest look. */
  #admitted = ''
  #stopping = false

  private constructor(core: Core, session: WorkerSession, inbox: InboxSink | undefined) {
    this.#core = core
    this.#session = session
    this.#inbox = inbox
    this.#settler = new Settler(core)
    core.lifeline.speakFor(() => this.number)
    this.#health = new Health(core.db, core.log, () => this.number)
    this.#feedback = [createFeedbackLoop({ ...core, applyFeedback }), createUnmatchedLoop(core)]
    this.#scheduler = createSchedulerLoop(core)
    this.#attachments = new AttachmentStore((slices) => readAttachments(core.db, slices))
    this.#fetcher = new AttachmentFetcher({
      db: core.db,
      hosts: core.config.attachmentHosts,
      room: new ByteRoom(FETCH_ROOM_BYTES),
    })
    this.#webhooks = new OutgoingWebhooks({
      ...core,
      hosts: core.config.webhookHosts,
      worker: () => this.number,
      random: Math.random,
    })
    this.#watch = new Loop({
      name: 'catalog',
      log: core.log,
      idleMs: LOOK_EACH_MS,
      round: async () => {
        await core.lifeline.look()
        await core.catalog.refresh()
        this.#wakeDispatchers(core.catalog.current)
        return false
      },
    })
  }

  static async start(core: Core): Promise<Worker> {
    const { config, db, log, bells, catalog } = core
    const session = await WorkerSession.open({
      url: core.sessionUrl,
      role: core.serviceRole,
      log,
      onBell: (payload) => bells.hear(payload),
    })
    try {
      const inbox = config.isProduction
        ? undefined
        : await startInboxSink({ db, log, keep: config.inboxKeep })
      const worker = new Worker(core, session, inbox)
      catalog.onChange((current) => worker.#open(current))
      worker.#watch.start()
      for (const loop of worker.#feedback) loop.start()
      worker.#scheduler.start()
      worker.#webhooks.start()
      return worker
    } catch (error) {
      await session.close(true)
      throw error
    }
  }

  get number(): number {
    return this.#session.number
  }

  /** Of each stream and the providers of its route, and of one taken off it for as long as it still sends. */
  slots(): SlotUse[] {
    const { streams, providers } = this.#core.catalog.current
    return [...streams.values()].flatMap(({ name: stream, route, slots: total }) =>
      [...providers.keys()].flatMap((provider) => {
        const used = this.#dispatchers.get(`${provider}.${stream}`)?.slotsUsed ?? 0
        return used > 0 || route.includes(provider) ? [{ stream, provider, used, total }] : []
      }),
    )
  }

  /** Claims no more, finishes what is in flight until `limit`, settles it, and leaves the register. */
  async stop(limit: AbortSignal): Promise<void> {
    this.#stopping = true
    await Promise.all([this.#watch, ...this.#feedback].map((loop) => loop.stop()))
    const [sent] = await Promise.all([
      Promise.all([...this.#dispatchers.values()].map((dispatcher) => dispatcher.stop(limit))),
      this.#scheduler.stop(),
      Promise.all([...this.#processing.values()].flat().map((lane) => lane.stop())),
      this.#webhooks.stop(limit),
    ])
    const isWritten = await this.#settler.finish(limit)
    await this.#health.finish()
    await Promise.all([...this.#transports.values()].map(({ transport }) => transport?.close()))
    await this.#inbox?.stop()
    await this.#session.close(isWritten && sent.every((isCertain) => isCertain))
  }

  #open({ streams, providers }: Catalog): void {
    if (this.#stopping) return
    for (const stream of streams.keys()) {
      if (!this.#processing.has(stream)) this.#openProcessing(stream)
    }
    for (const provider of providers.values()) {
      this.#refreshTransport(provider)
      for (const stream of streams.keys()) this.#openDispatcher(provider.name, stream)
    }
    for (const [name, { transport }] of this.#transports) {
      if (providers.has(name)) continue
      this.#transports.delete(name)
      this.#retire(name, transport)
    }
  }

  /** Opens a provider's transport, again when its settings changed; sends under way finish on the old one. */
  #refreshTransport(provider: Provider): void {
    const settings = JSON.stringify(settingsOf(provider))
    const open = this.#transports.get(provider.name)
    if (open?.settings === settings) return
    this.#transports.set(provider.name, { settings, transport: this.#openTransport(provider) })
    if (open !== undefined) this.#retire(provider.name, open.transport)
  }

  #retire(provider: string, transport: Transport | undefined): void {
    transport?.close().catch((error: unknown) => {
      this.#core.log.warn({ provider, error }, 'closing a replaced transport failed')
    })
  }

  /** When somebody may not send any more, or may again, another one of the route has work to do or to leave. */
  #wakeDispatchers({ streams, providers }: Catalog): void {
    const admitted = JSON.stringify([
      [...providers.values()].filter(({ isHeld }) => !isHeld).map(({ name }) => name),
      [...streams.values()].map(({ name, isPaused, opensAt, route, slots }) => [
        ...[name, isPaused, opensAt, route, slots],
      ]),
    ])
    if (admitted === this.#admitted) return
    this.#admitted = admitted
    for (const { loop } of this.#dispatchers.values()) loop.bell.ring()
  }

  #openProcessing(stream: string): void {
    const lanes = createProcessingLanes(
      { ...this.#core, fetcher: this.#fetcher, worker: () => this.number },
      stream,
    )
    this.#processing.set(stream, lanes)
    for (const lane of lanes) lane.start()
  }

  #openDispatcher(provider: string, stream: string): void {
    const key = `${provider}.${stream}`
    if (this.#dispatchers.has(key)) return
    const dispatcher = new Dispatcher(
      {
        ...this.#core,
        settler: this.#settler,
        health: this.#health,
        attachments: this.#attachments,
        worker: () => this.number,
        holds: (worker) => this.#session.holds(worker),
        random: Math.random,
      },
      provider,
      stream,
      (name) => this.#transports.get(name)?.transport,
    )
    this.#dispatchers.set(key, dispatcher)
    dispatcher.loop.start()
  }

  /** Undefined when it cannot be opened: its mail waits, and the log says what is missing. */
  #openTransport(provider: Provider): Transport | undefined {
    const { config } = this.#core
    const { name, transport, credentialsEnv, baseUrl, options } = provider
    const isInbox = transport === 'inbox'
    const credentials = isInbox ? this.#inbox?.url : config.environment[credentialsEnv ?? '']
    if (credentials === undefined || credentials === '') {
      const missing = `the variable ${credentialsEnv} is not set in the worker's environment`
      this.#tellUsable(name, isInbox ? 'the local inbox is refused in production' : missing)
      return undefined
    }
    try {
      const opened = openTransport({
        transport: isInbox ? 'smtp' : transport,
        credentials,
        options,
        ...(baseUrl === null ? {} : { baseUrl }),
        clock: this.#core.clock,
        maxConnections: () => this.#slots(),
      })
      this.#tellUsable(name, null)
      return opened
    } catch (error) {
      if (!(error instanceof TransportSettingsError)) throw error
      this.#tellUsable(name, `it cannot be opened: ${error.message}`)
      return undefined
    }
  }

  /** For mail.provider_status: settings never hold credentials, and neither do these reasons. */
  #tellUsable(provider: string, reason: string | null): void {
    const { db, log } = this.#core
    if (reason !== null) log.error({ provider, reason }, 'this provider cannot be used; mail for it waits')
    tellUsable(db, provider, reason).catch((error: unknown) => {
      log.debug({ provider, error }, 'could not tell whether a provider can be used')
    })
  }

  /** Enough connections for every stream's slots as they are now: one whose sends hang leaves the others theirs. */
  #slots(): number {
    return [...this.#core.catalog.current.streams.values()].reduce((sum, stream) => sum + stream.slots, 0)
  }
}
