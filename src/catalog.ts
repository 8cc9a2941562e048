import type { Database } from './db/pool.ts'

export type Stream = {
  readonly name: string
  readonly priority: number
  readonly route: readonly string[]
  readonly onUnknown: 'retry' | 'hold'
  readonly attempts: number
  readonly backoff: { readonly baseMs: number; readonly factor: number; readonly capMs: number }
  readonly slots: number
}

export type Provider = {
  readonly name: string
  readonly transport: 'smtp' | 'inbox'
  readonly credentialsEnv: string | null
}

/** The streams and providers as they were at the latest look; rows change by SQL while we run. */
export type Catalog = {
  readonly streams: ReadonlyMap<string, Stream>
  readonly providers: ReadonlyMap<string, Provider>
}

/** The stream of a message that names none. */
export const DEFAULT_STREAM = 'transactional'

export async function readCatalog(db: Database): Promise<Catalog> {
  const streams = await db.selectFrom('mail.stream').selectAll().execute()
  const providers = await db.selectFrom('mail.provider').selectAll().execute()
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
        },
      ]),
    ),
    providers: new Map(
      providers.map((row) => [
        row.name,
        {
          name: row.name,
          transport: row.transport === 'inbox' ? 'inbox' : 'smtp',
          credentialsEnv: row.credentials_env,
        },
      ]),
    ),
  }
}

/** Holds the latest catalog for everyone in the process. */
export class LiveCatalog {
  readonly #db: Database
  readonly #prepare: () => Promise<void>
  readonly #listeners: ((catalog: Catalog) => void)[] = []
  #current: Catalog = { streams: new Map(), providers: new Map() }

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

  /** Called now, and whenever a stream or provider has come or gone. */
  onChange(listener: (catalog: Catalog) => void): void {
    this.#listeners.push(listener)
    listener(this.#current)
  }

  async refresh(): Promise<void> {
    const next = await readCatalog(this.#db)
    const isNew = namesOf(next) !== namesOf(this.#current)
    if (isNew) await this.#prepare()
    this.#current = next
    if (isNew) for (const listener of this.#listeners) listener(next)
  }
}

function namesOf({ streams, providers }: Catalog): string {
  return [...streams.keys(), '', ...providers.keys()].join(' ')
}
