import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Pool } from 'pg'
import { Notifier } from './alerts/notifier.ts'
import { type BounceAddresses, createBounceAddresses } from './bounce-address.ts'
import { LiveCatalog } from './catalog.ts'
import type { Config } from './config.ts'
import { DatabaseClock } from './database-clock.ts'
import { type Database, openPool } from './db/pool.ts'
import { refuseUnsoundPooler } from './db/pooler.ts'
import { endsBy, orClose } from './ending.ts'
import { createPinnedFetch } from './feedback/pinned-fetch.ts'
import { Receiver } from './feedback/receive.ts'
import { unsubscribe } from './feedback/unsubscribe.ts'
import { createApp } from './http/app.ts'
import type { BulkLimits } from './http/deps.ts'
import { openMetricsServer } from './http/metrics-server.ts'
import { type HttpServer, listen } from './http/server.ts'
import { Acceptor } from './intake/accept.ts'
import { acceptMany } from './intake/accept-many.ts'
import { Handed } from './intake/handed.ts'
import { createMover, type Mover } from './intake/mover.ts'
import { PressureGauge } from './intake/pressure.ts'
import { KeyUse } from './keys/key-use.ts'
import { Keyring } from './keys/keyring.ts'
import { holdOnce, Lifeline } from './lifeline.ts'
import type { Log } from './log.ts'
import { DEFAULT_MESSAGE_LIMITS, type MessageLimits } from './message/message-schema.ts'
import { Meter } from './meter.ts'
import { createMetrics, type Metrics } from './metrics/metrics.ts'
import { warnOfMissingKeys } from './missing-keys.ts'
import { createRenderPool, type RenderPool } from './processing/render/render-pool.ts'
import { seedDefaultProvider } from './providers.ts'
import { Bells } from './queue/bells.ts'
import { type Boss, ensureQueues, startBoss } from './queue/boss.ts'
import { Handover } from './queue/handover.ts'
import { Outlets } from './queue/outlets.ts'
import { Sealer } from './sealer.ts'
import { readSecret } from './secret.ts'
import { createUnsubscribeLinks, type UnsubscribeLinks } from './unsubscribe-links.ts'
import { createDuties } from './upkeep/duties.ts'
import type { Duty } from './upkeep/duty.ts'
import { lead, stopLeading } from './upkeep/measures-queries.ts'
import { Rescuer } from './upkeep/rescue.ts'
import { createStatisticsLoop } from './upkeep/statistics.ts'
import { createUpkeep, type Upkeep } from './upkeep/upkeep.ts'
import { Worker } from './worker.ts'

/**
 * Puts the chosen roles together over one pool, and takes them apart again in the order that loses
 * nothing: the door closes, what came in is moved and answered, sends in flight finish and are settled.
 */

export type Service = {
  /** Where the API listens; undefined in a process without the role `api`. */
  readonly url: string | undefined
  readonly metricsUrl: string | undefined
  readonly hasInbox: boolean
  readonly db: Database
  /** Finishes what is in flight within the configured limit; false when something did not end. Safe to call twice. */
  stop(): Promise<boolean>
}

/** Past the limit the parts only settle and say goodbye; a database that hangs must not keep the process. */
const SETTLE_MS = 3_000
const CLOSE_MS = 2_000

/** Each bulk holds a connection while its body comes in; the HTTP server itself gives any request five minutes. */
const BULK: Omit<BulkLimits, 'maxBytes'> = {
  slots: 2,
  slotWaitMs: 5_000,
  silenceMs: 60_000,
  totalMs: 285_000,
}

/** What every part of the process shares. */
export type Core = {
  readonly config: Config
  readonly log: Log
  /** For connections that are held: never a pooler's. */
  readonly sessionUrl: string
  readonly serviceRole: string | undefined
  readonly db: Database
  readonly pool: Pool
  readonly boss: Boss
  readonly bells: Bells
  readonly handover: Handover
  readonly outlets: Outlets
  readonly meter: Meter
  readonly clock: DatabaseClock
  readonly catalog: LiveCatalog
  readonly lifeline: Lifeline
  readonly renderer: RenderPool
  readonly unsubscribeLinks: UnsubscribeLinks
  readonly bounceAddresses: BounceAddresses
  readonly sealer: Sealer
  /** Tells this process's rows from those of others: rates, and rows on their way through the intake. */
  readonly process: string
}

export type ServiceOptions = {
  readonly config: Config
  readonly log: Log
  readonly databaseUrl: string
  /** See migrate(): the role each connection works as. */
  readonly serviceRole: string | undefined
}

export async function startService(options: ServiceOptions): Promise<Service> {
  const { core, close } = await openCore(options)
  return startRoles(core, close)
}

async function openCore(options: ServiceOptions): Promise<{ core: Core; close: () => Promise<void> }> {
  const { config, log, databaseUrl, serviceRole } = options
  const sessionUrl = config.sessionDatabaseUrl ?? databaseUrl
  if (config.sessionDatabaseUrl !== undefined) await refuseUnsoundPooler(databaseUrl, sessionUrl)
  const {
    db,
    pool,
    close: closePool,
  } = openPool({
    url: databaseUrl,
    maxConnections: config.databaseConnections,
    role: serviceRole,
    isPooled: config.sessionDatabaseUrl !== undefined,
    log,
  })
  try {
    const lifeline = new Lifeline({ db, log })
    await lifeline.look()
    if (config.startHeld !== undefined && (await holdOnce(db, config.startHeld)))
      log.warn({ reason: config.startHeld }, 'started held: nothing is sent until a person releases it')
    await seedDefaultProvider(db, config)
    const unsubscribeLinks = createUnsubscribeLinks(await readSecret(db, 'unsubscribe'), config.publicUrl)
    const bounceAddresses = createBounceAddresses(await readSecret(db, 'bounce'))
    const clock = await DatabaseClock.open(db)
    const catalog = await LiveCatalog.open(db, () => ensureQueues(db))
    const sealer = new Sealer(config.encryptionKeys)
    await warnOfMissingKeys(db, sealer, log)
    const boss = await startBoss(pool, log)
    const bells = new Bells(pool, log)
    const renderer = createRenderPool()
    const close = async () => {
      bells.stop()
      await renderer.stop()
      await boss.stop({ graceful: false })
      await closePool()
    }
    const core: Core = {
      config,
      log,
      sessionUrl,
      serviceRole,
      db,
      pool,
      boss,
      bells,
      handover: new Handover(),
      outlets: new Outlets(),
      meter: new Meter(),
      clock,
      catalog,
      lifeline,
      renderer,
      unsubscribeLinks,
      bounceAddresses,
      sealer,
      process: randomUUID(),
    }
    return { core, close }
  } catch (error) {
    await closePool()
    throw error
  }
}

async function startRoles(core: Core, close: () => Promise<void>): Promise<Service> {
  const { config, db, log } = core
  const worker = config.roles.has('worker') ? await orClose(Worker.start(core), close) : undefined
  const { acceptor, mover } = createIntake(core)
  const pressure = new PressureGauge({ db, log, now: () => performance.now() })
  const notifier = createNotifier(core)
  const upkeep = createUpkeepOf(core, worker, notifier)
  const statistics = worker === undefined ? undefined : createStatisticsLoop(core)
  const receiver = createReceiver(core)
  mover.start()
  upkeep.start()
  statistics?.start()
  const hasInbox =
    !config.isProduction &&
    [...core.catalog.current.providers.values()].some(({ transport }) => transport === 'inbox')
  const metrics = createMetrics({
    ...core,
    slots: () => worker?.slots() ?? [],
    pressure: () => (config.roles.has('api') ? pressure.level : undefined),
  })
  const stopAll = async (server: HttpServer | undefined, metricsServer?: HttpServer) => {
    const limit = AbortSignal.timeout(config.stopTimeoutMs)
    const settled = performance.now() + config.stopTimeoutMs + SETTLE_MS
    const ends = (part: string, ending: Promise<unknown>, by: number) => endsBy({ part, ending, by, log })
    // The mover goes on until the last request has its answer; the worker claims no more from now on.
    const closeDoor = async () => {
      await server?.close(limit)
      await receiver.finish()
      await pressure.loop.stop()
      await mover.stop()
    }
    const parts = await Promise.all([
      ends('intake', closeDoor(), settled),
      ends('worker', worker?.stop(limit) ?? Promise.resolve(), settled),
    ])
    const endUpkeep = async () => {
      await Promise.all([upkeep.stop(), statistics?.stop()])
      await notifier.stop(limit)
    }
    const isUpkeepEnded = await ends('upkeep', endUpkeep(), settled)
    await metricsServer?.close(AbortSignal.abort())
    const isClosed = await ends('connections', close(), performance.now() + CLOSE_MS)
    const isClean = isUpkeepEnded && isClosed && parts.every((isEnded) => isEnded)
    log.info({ isClean }, 'stopped')
    return isClean
  }
  const doors = { acceptor, mover, pressure, receiver, notifier, metrics }
  const server = config.roles.has('api')
    ? await orClose(openApi(core, doors, hasInbox), () => stopAll(undefined))
    : undefined
  const metricsServer = await orClose(openMetricsServer({ ...core, metrics }), () => stopAll(server))
  let stopping: Promise<boolean> | undefined
  return {
    url: server?.url,
    metricsUrl: metricsServer?.url,
    hasInbox,
    db,
    stop() {
      stopping ??= stopAll(server, metricsServer)
      return stopping
    },
  }
}

function createIntake(core: Core): { acceptor: Acceptor; mover: Mover } {
  const { db, bells, handover, meter, catalog, log, clock } = core
  const hands = { urgent: new Handed(clock), others: new Handed(clock) }
  const acceptor: Acceptor = new Acceptor(db, core.process, hands, (lane) => mover.wake(lane))
  const mover: Mover = createMover({
    db,
    bells,
    handover,
    meter,
    catalog,
    log,
    isAwaited: (id) => acceptor.isAwaited(id),
    parsedOf: (id) => acceptor.parsedOf(id),
    limits: limitsOf(core.config),
    sealer: core.sealer,
    process: core.process,
    hands,
    onMoved: (outcomes) => acceptor.settle(outcomes),
    onQueued: (id) => acceptor.queue(id),
    onRefused: (id, error) => acceptor.refuse(id, error),
  })
  return { acceptor, mover }
}

function limitsOf({ attachmentHosts }: Config): MessageLimits {
  return { ...DEFAULT_MESSAGE_LIMITS, attachmentHosts }
}

function createUpkeepOf(core: Core, worker: Worker | undefined, notifier: Notifier): Upkeep {
  const { db, boss, bells, log, process: id } = core
  const rescuer =
    worker === undefined ? undefined : new Rescuer({ db, boss, bells, log, worker: () => worker.number })
  const rescue =
    rescuer === undefined
      ? undefined
      : async () => {
          bells.hasPeers = (await rescuer.look()) > 0
        }
  return createUpkeep({
    log,
    duties: [...createDuties({ ...core, rescue }), tellAlerts(notifier)],
    leadership: {
      lead: () => lead(db, id, `${hostname()}:${process.pid}`),
      resign: () => stopLeading(db, id),
    },
  })
}

function createNotifier({ db, log, config, clock }: Core): Notifier {
  return new Notifier({
    db,
    log,
    environment: config.environment,
    hosts: config.webhookHosts,
    now: () => clock.now(),
  })
}

function tellAlerts(notifier: Notifier): Duty {
  return {
    name: 'telling of alerts',
    everyMs: 1_000,
    isForLeader: true,
    run: async () => {
      await notifier.look()
      return false
    },
  }
}

function createReceiver({ db, boss, bells, log, config, clock }: Core): Receiver {
  return new Receiver({
    db,
    boss,
    bells,
    log,
    environment: config.environment,
    fetch: createPinnedFetch(),
    now: () => clock.now(),
  })
}

type Doors = {
  readonly acceptor: Acceptor
  readonly mover: Mover
  readonly pressure: PressureGauge
  readonly receiver: Receiver
  readonly notifier: Notifier
  readonly metrics: Metrics
}

async function openApi(
  core: Core,
  { acceptor, mover, pressure, receiver, notifier, metrics }: Doors,
  hasInbox: boolean,
): Promise<HttpServer> {
  const { config, db, log, clock, catalog, renderer, unsubscribeLinks } = core
  const keyUse = new KeyUse(db, log)
  await pressure.look()
  pressure.loop.start()
  const stopping = new AbortController()
  const app = createApp({
    db,
    log,
    clock,
    catalog,
    hasInbox,
    stopping: stopping.signal,
    publicUrl: config.publicUrl,
    keyring: new Keyring(db, config.apiKey, { onUse: (keyId) => keyUse.note(keyId) }),
    webhookHosts: config.webhookHosts,
    maxBodyBytes: config.maxBodyBytes,
    acceptTimeoutMs: config.acceptTimeoutMs,
    messageLimits: limitsOf(config),
    sealer: core.sealer,
    accept: (row, options) => acceptor.accept(row, options),
    acceptMany: (many) => acceptMany({ db, wakeMover: () => mover.wake('doors') }, many),
    bulk: { maxBytes: config.maxBulkBytes, ...BULK },
    admit: (stream) => pressure.admit(stream),
    receiveWebhook: (kind, endpoint, call) => receiver.receive(kind, endpoint, call),
    testAlertTarget: (id) => notifier.test(id),
    checkTemplate: async (source) => {
      const checked = await renderer.check({ key: 'draft', ...source })
      return checked.ok ? undefined : checked.reason
    },
    readUnsubscribeToken: (token) => unsubscribeLinks.read(token),
    unsubscribe: (unsubscription) => unsubscribe(db, unsubscription, new Date(clock.now())),
    previewTemplate: (source, variables) =>
      renderer.preview({ key: 'preview', onMissing: 'list', ...source }, variables),
    metrics: config.metricsPort === undefined ? () => metrics.scrape() : 'elsewhere',
    onRequest: (request) => metrics.onRequest(request),
  })
  const server = await listen(app, config)
  log.info({ url: server.url, roles: [...config.roles] }, 'listening')
  return {
    url: server.url,
    async close(limit) {
      stopping.abort()
      await server.close(limit)
      await keyUse.write()
    },
  }
}
