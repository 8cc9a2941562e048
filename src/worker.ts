import type { Catalog, Provider } from './catalog.ts'
import { WorkerSession } from './db/session.ts'
import { Dispatcher } from './dispatch/dispatcher.ts'
import { Settler } from './dispatch/settler.ts'
import { createSmtpTransport } from './dispatch/smtp.ts'
import type { Transport } from './dispatch/transport.ts'
import { type InboxSink, startInboxSink } from './inbox/sink.ts'
import type { Loop } from './loop.ts'
import { createProcessingLoops } from './processing/worker.ts'
import type { Core } from './service.ts'

/**
 * The role `worker`: processing and dispatch of every stream, under one registered number. Streams and
 * providers that appear while it runs get their loops within a second.
 */
export class Worker {
  readonly #core: Core
  readonly #session: WorkerSession
  readonly #settler: Settler
  readonly #processing = new Map<string, Loop[]>()
  readonly #dispatchers = new Map<string, Dispatcher>()
  readonly #transports = new Map<string, Transport>()
  readonly #inbox: InboxSink | undefined
  #stopping = false

  private constructor(core: Core, session: WorkerSession, inbox: InboxSink | undefined) {
    this.#core = core
    this.#session = session
    this.#inbox = inbox
    this.#settler = new Settler(core.db, core.boss, core.log)
  }

  static async start(core: Core): Promise<Worker> {
    const { config, db, log, bells, catalog } = core
    const session = await WorkerSession.open({
      url: core.databaseUrl,
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
      return worker
    } catch (error) {
      await session.close(true)
      throw error
    }
  }

  get number(): number {
    return this.#session.number
  }

  /** Claims no more, finishes what is in flight until `limit`, settles it, and leaves the register. */
  async stop(limit: AbortSignal): Promise<void> {
    this.#stopping = true
    const [sent] = await Promise.all([
      Promise.all([...this.#dispatchers.values()].map((dispatcher) => dispatcher.stop(limit))),
      Promise.all([...this.#processing.values()].flat().map((loop) => loop.stop())),
    ])
    const isWritten = await this.#settler.finish(limit)
    await Promise.all([...this.#transports.values()].map((transport) => transport.close()))
    await this.#inbox?.stop()
    await this.#session.close(isWritten && sent.every((isCertain) => isCertain))
  }

  #open({ streams, providers }: Catalog): void {
    if (this.#stopping) return
    for (const stream of streams.keys()) {
      if (!this.#processing.has(stream)) this.#openProcessing(stream)
    }
    for (const provider of providers.values()) {
      const transport = this.#transports.get(provider.name) ?? this.#openTransport(provider)
      if (transport === undefined) continue
      this.#transports.set(provider.name, transport)
      for (const stream of streams.keys()) this.#openDispatcher(provider.name, stream, transport)
    }
  }

  #openProcessing(stream: string): void {
    const loops = createProcessingLoops({ ...this.#core, worker: () => this.number }, stream)
    this.#processing.set(stream, loops)
    for (const loop of loops) loop.start()
  }

  #openDispatcher(provider: string, stream: string, transport: Transport): void {
    const key = `${provider}.${stream}`
    if (this.#dispatchers.has(key)) return
    const dispatcher = new Dispatcher(
      { ...this.#core, settler: this.#settler, worker: () => this.number, random: Math.random },
      provider,
      stream,
      transport,
    )
    this.#dispatchers.set(key, dispatcher)
    dispatcher.loop.start()
  }

  /** Undefined when it cannot be opened: its mail waits, and the log says what is missing. */
  #openTransport(provider: Provider): Transport | undefined {
    const { config, log, catalog } = this.#core
    const url =
      provider.transport === 'inbox' ? this.#inbox?.url : config.environment[provider.credentialsEnv ?? '']
    if (url === undefined || url === '') {
      log.error(
        { provider: provider.name, variable: provider.credentialsEnv },
        provider.transport === 'inbox'
          ? 'the local inbox is refused in production; mail for this provider waits'
          : 'the variable with this provider’s credentials is not set; mail for it waits',
      )
      return undefined
    }
    // Enough for every stream's slots as they are now: one whose sends hang leaves the others theirs.
    const maxConnections = () =>
      [...catalog.current.streams.values()].reduce((sum, stream) => sum + stream.slots, 0)
    try {
      return createSmtpTransport({ url, maxConnections })
    } catch (error) {
      log.error(
        { provider: provider.name, variable: provider.credentialsEnv, error },
        'the variable with this provider’s credentials cannot be read; mail for it waits',
      )
      return undefined
    }
  }
}
