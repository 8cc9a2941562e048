import { sql } from 'kysely'
import type { Database } from './db/pool.ts'

export type Stream = {
  readonly name: string
  readonly priority: number
  readonly route: readonly string[]
  readonly onUnknown: 'retry' | 'hold'
  readonly attempts: number
  readonly backoff: { readonly baseMs: number; readonly factor: number; readonly capMs: number }
  readonly slots: number
  /** Where bounces come back to, each message's to an address of its own; null: to the sender. */
  readonly bounceDomain: string | null
  /** A message still deferred at this age is given up. */
  readonly maxAgeMs: number
  readonly isPaused: boolean
  readonly hasSendWindow: boolean
  /** When its send window opens, as the database reckons it; null: it may send now. */
  readonly opensAt: Date | null
  /** Since when its send window is open; null: it is closed, or there is none. */
  readonly openedAt: Date | null
  /** All of its mail is sensitive, whatever a message says. */
  readonly isSensitive: boolean
  readonly unsubscribe: {
    readonly isOffered: boolean
    readonly mailto: string | null
    readonly isRequired: boolean
  }
  readonly postalAddress: { readonly text: string | null; readonly isRequired: boolean }
}

export const TRANSPORT_NAMES = ['smtp', 'inbox', 'ses', 'sendgrid', 'mailgun', 'postmark', 'resend'] as const

export type Provider = {
  readonly name: string
  readonly transport: (typeof TRANSPORT_NAMES)[number]
  readonly credentialsEnv: string | null
  readonly baseUrl: string | null
  readonly options: Readonly<Record<string, string>>
  /** Nothing may go to it now (paused, breaker open, asked to wait); its mail may go to the next of a route. */
  readonly isHeld: boolean
  /** No trouble is known of it: its breaker is closed, and neither faults nor refusals are fresh. */
  readonly isWell: boolean
  /** Whether what may be sent has to be asked for: it has buckets, or something about it is not as usual. */
  readonly isMetered: boolean
}

/** How much mail may go to a recipient domain. */
export type DomainLimit = {
  readonly id: number
  /** In lower case; `*`: each domain that has no limit of its own. */
  readonly domain: string
  /** Null: counts what goes through all of them. */
  readonly provider: string | null
  readonly quota: number
  readonly windowMs: number
  readonly utilization: number
  readonly burst: number
}

/** The streams and providers as they were at the latest look; rows change by SQL while we run. */
export type Catalog = {
  readonly streams: ReadonlyMap<string, Stream>
  readonly providers: ReadonlyMap<string, Provider>
  readonly domainLimits: readonly DomainLimit[]
}

/** The stream of a message that names none. */
export const DEFAULT_STREAM = 'transactional'

export async function readCatalog(db: Database): Promise<Catalog> {
  const streams = await db
    .selectFrom('mail.stream')
    .selectAll()
    .select([
      sql<boolean>`exists (select from mail.send_window w where w.stream = name)`.as('has_send_window'),
      sql<Date | null>`mail.window_opens(name, clock_timestamp())`.as('opens_at'),
      sql<Date | null>`mail.window_opened(name, clock_timestamp())`.as('opened_at'),
    ])
    .execute()
  const providers = await readProviders(db)
  return {
    streams: new Map(
      streams.map((row) => [
        row.name,
        {
          name: row.name,
          priority: row.priority,
          route: row.route,
          onUnknown: row.on_unknown === 'hold' ? 'hold' : 'retry',
          attempts: row.attempts,
          backoff: {
            baseMs: row.backoff_base_s * 1_000,
            factor: row.backoff_factor,
            capMs: row.backoff_cap_s * 1_000,
          },
          slots: row.slots,
          bounceDomain: row.bounce_domain,
          maxAgeMs: row.max_age_s * 1_000,
          isPaused: row.paused_at !== null,
          hasSendWindow: row.has_send_window,
          opensAt: row.opens_at,
          openedAt: row.opened_at,
          isSensitive: row.is_sensitive,
          unsubscribe: {
            isOffered: row.unsubscribe,
            mailto: row.unsubscribe_mailto,
            isRequired: row.requires_unsubscribe,
          },
          postalAddress: { text: row.postal_address, isRequired: row.requires_postal_address },
        },
      ]),
    ),
    providers: new Map(providers.map((provider) => [provider.name, provider])),
    domainLimits: await readDomainLimits(db),
  }
}

async function readDomainLimits(db: Database): Promise<DomainLimit[]> {
  const { rows } = await sql<DomainLimit>`/* catalog.domain_limits */
    select id, domain, provider, quota, window_s * 1000 as "windowMs", utilization,
      coalesce(burst, greatest(1, quota / window_s / 4)) as burst
    from mail.domain_limit
  `.execute(db)
  return rows
}

async function readProviders(db: Database): Promise<Provider[]> {
  const { rows } = await sql<Provider>`/* catalog.providers */
    select
      p.name, p.transport, p.credentials_env as "credentialsEnv", p.base_url as "baseUrl", p.options,
      h.until is not null as "isHeld",
      w.is_well as "isWell",
      not w.is_well
        or coalesce(s.remaining_until > now(), false)
        or exists (select from mail.bucket b where b.provider = p.name) as "isMetered"
    from mail.provider p
    left join mail.provider_state s on s.provider = p.name
    cross join lateral mail.provider_hold(p.name) h
    cross join lateral (
      select h.until is null
        and coalesce(s.breaker = 'closed' and s.faults_in_row = 0 and s.blocks_in_row = 0, true) as is_well
    ) w
  `.execute(db)
  return rows
}

/** Holds the latest catalog for everyone in the process. */
export class LiveCatalog {
  readonly #db: Database
  readonly #prepare: () => Promise<void>
  readonly #listeners: ((catalog: Catalog) => void)[] = []
  #looking: Promise<void> = Promise.resolve()
  #current: Catalog = { streams: new Map(), providers: new Map(), domainLimits: [] }

  private constructor(db: Database, prepare: () => Promise<void>) {
    this.#db = db
    this.#prepare = prepare
  }

  /** `prepare` makes what new streams and providers need (their queues) before anyone can use them. */
  static async open(db: Database, prepare: () => Promise<void>): Promise<LiveCatalog> {
    const catalog = new LiveCatalog(db, prepare)
    await catalog.refresh()
    return catalog
  }

  get current(): Catalog {
    return this.#current
  }

  /** Called now, and whenever a stream or provider has come, gone, or got other settings. */
  onChange(listener: (catalog: Catalog) => void): void {
    this.#listeners.push(listener)
    listener(this.#current)
  }

  async refresh(): Promise<void> {
    // One after the other: an older look that ends later must not replace a newer one.
    const look = this.#looking.then(
      () => this.#look(),
      () => this.#look(),
    )
    this.#looking = look
    await look
  }

  async #look(): Promise<void> {
    const next = await readCatalog(this.#db)
    const isNew = setUpOf(next) !== setUpOf(this.#current)
    if (isNew) await this.#prepare()
    this.#current = next
    if (isNew) for (const listener of this.#listeners) listener(next)
  }
}

/** What queues, loops and transports are made from; pauses and breakers come and go without that. */
function setUpOf({ streams, providers }: Catalog): string {
  const transports = [...providers.values()].map(settingsOf)
  return JSON.stringify([[...streams.keys()], transports])
}

/** What a provider's transport is made from. */
export function settingsOf({ name, transport, credentialsEnv, baseUrl, options }: Provider) {
  return { name, transport, credentialsEnv, baseUrl, options }
}
