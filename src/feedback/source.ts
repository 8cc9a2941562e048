import type { Database } from '../db/pool.ts'
import type { WebhookKind } from '../webhook-kinds.ts'
import { findSource } from './delivery-queries.ts'

/** A row of `mail.webhook_source`: an address that providers may call. */
export type Source = {
  readonly name: string
  readonly kind: WebhookKind
  readonly secretsEnv: string | null
  readonly topicArns: readonly string[]
}

/** How long a row is used without asking again: a changed or deleted source is noticed within it. */
const REMEMBER_MS = 1_000

/** Looks sources up. Only existing ones are remembered, so that a new one works at once. */
export class Sources {
  readonly #db: Database
  readonly #now: () => number
  readonly #known = new Map<string, { source: Source; until: number }>()

  constructor(db: Database, now: () => number) {
    this.#db = db
    this.#now = now
  }

  async find(name: string): Promise<Source | undefined> {
    const known = this.#known.get(name)
    if (known !== undefined && known.until > this.#now()) return known.source
    const source = await findSource(this.#db, name)
    if (source === undefined) this.#known.delete(name)
    else this.#known.set(name, { source, until: this.#now() + REMEMBER_MS })
    return source
  }
}

/** Several secrets, by spaces or commas, hold while one replaces another: base64 and passwords of either kind go in. */
export function readSecrets(
  { secretsEnv }: Source,
  environment: Readonly<Record<string, string | undefined>>,
): string[] {
  const text = secretsEnv === null ? undefined : environment[secretsEnv]
  return (text ?? '').split(/[\s,]+/).filter((secret) => secret !== '')
}
