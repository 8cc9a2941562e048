import { setTimeout as delay } from 'node:timers/promises'
import { orderMail, TEST_KEY } from '../../test/support/service.ts'
import type { Ledger } from './ledger.ts'
import type { Queryable } from './queryable.ts'

export type ClientsReport = {
  /** Requests that broke: no answer, or half of one. */
  readonly broken: number
  /** Answers other than 200, by status. */
  readonly refused: ReadonlyMap<number, number>
  /** Keys whose repeats were answered with another id: two messages for one. */
  readonly doubled: readonly string[]
  /** Answers that promise less than was asked for: `durable` was wanted, and another word came. */
  readonly weaker: readonly string[]
  /** Repeats whose answer was that of an earlier request, although that one was answered as failed. */
  readonly replayed: number
  /** Answers of 503 that do not say when to come again. */
  readonly unadvised: number
}

export type ClientsOptions = {
  readonly ledger: Ledger
  readonly count: number
  /** How many requests are under way at once. */
  readonly clients: number
  /** Where the next request goes; asked each time, since servers come and go. */
  readonly url: () => string
  /** `durable` by default. */
  readonly durability?: 'durable' | 'buffered'
  /** Fields of the message other than its recipient. */
  readonly mail?: (n: number) => Readonly<Record<string, unknown>>
  /** The first number; recipients are `user<n>@run.example`. Default 1. */
  readonly first?: number
  /** Mails a second that they keep to together; undefined: as fast as the answers come. */
  readonly perS?: number
  /** Ends it early: what was begun is still brought to its end. */
  readonly signal?: AbortSignal
  /** False: no idempotency key, so that a repeat is another message, with a recipient of its own. Default true. */
  readonly isKeyed?: boolean
  readonly onAcknowledged?: (key: string) => void
  /** Each answer with its time, whatever it says. */
  readonly onAnswer?: (status: number, tookMs: number) => void
}

type Tally = {
  broken: number
  refused: Map<number, number>
  doubled: string[]
  weaker: string[]
  replayed: number
  unadvised: number
}

/** Time between a failure and its repeat. */
const RETRY_MS = 100
const REQUEST_LIMIT_MS = 15_000

export function recipientOf(n: number): string {
  return `user${n}@run.example`
}

/** Hands over messages as careful clients do: each under a key of its own, again and again until there is an answer of 200. */
export async function runClients(options: ClientsOptions): Promise<ClientsReport> {
  const { first = 1, count, clients, perS, signal } = options
  const tally: Tally = { broken: 0, refused: new Map(), doubled: [], weaker: [], replayed: 0, unadvised: 0 }
  const startedAt = performance.now()
  let begun = 0
  const client = async () => {
    while (begun < count && signal?.aborted !== true) {
      const n = begun
      begun += 1
      if (perS !== undefined) await delay(Math.max(0, startedAt + (n * 1_000) / perS - performance.now()))
      await handOver(options, first + n, tally)
    }
  }
  await Promise.all(Array.from({ length: clients }, client))
  return tally
}

async function handOver(options: ClientsOptions, n: number, tally: Tally): Promise<void> {
  const { ledger, isKeyed = true, durability = 'durable', onAcknowledged } = options
  for (let attempt = 1; ; attempt += 1) {
    const key = isKeyed || attempt === 1 ? recipientOf(n) : `again${attempt}.${recipientOf(n)}`
    const body = JSON.stringify({ ...orderMail({ to: [key] }), ...options.mail?.(n) })
    ledger.attempt(key)
    const startedAt = performance.now()
    const answer = await request(options, isKeyed ? key : undefined, body)
    if (answer !== undefined) options.onAnswer?.(answer.status, performance.now() - startedAt)
    if (answer === undefined) tally.broken += 1
    else if (answer.status === 200) {
      if (!ledger.acknowledge(key, answer.id)) tally.doubled.push(key)
      if (durability === 'durable' && answer.durability !== 'durable') tally.weaker.push(key)
      if (answer.isReplay) tally.replayed += 1
      onAcknowledged?.(key)
      return
    } else {
      tally.refused.set(answer.status, (tally.refused.get(answer.status) ?? 0) + 1)
      if (answer.status === 503 && answer.retryAfter === null) tally.unadvised += 1
    }
    await delay(RETRY_MS)
  }
}

type Answer = {
  readonly status: number
  readonly id: string
  readonly durability: string | null
  readonly isReplay: boolean
  readonly retryAfter: string | null
}

/** Undefined when the connection broke, before the answer or in it. */
async function request(
  { url, durability = 'durable' }: ClientsOptions,
  key: string | undefined,
  body: string,
): Promise<Answer | undefined> {
  try {
    const answer = await fetch(`${url()}/emails`, {
      method: 'POST',
      headers: {
        Authorization: `Bearer ${TEST_KEY}`,
        'Content-Type': 'application/json',
        ...(key === undefined ? {} : { 'Idempotency-Key': key }),
        ...(durability === 'buffered' ? { 'Sluice-Durability': 'buffered' } : {}),
      },
      body,
      signal: AbortSignal.timeout(REQUEST_LIMIT_MS),
    })
    const { id = '' } = (await answer.json()) as { id?: string }
    const { status, headers } = answer
    return {
      ...{ status, id },
      durability: headers.get('Sluice-Durability'),
      isReplay: headers.get('Idempotent-Replayed') === 'true',
      retryAfter: headers.get('Retry-After'),
    }
  } catch {
    // The server was killed under it, or is not back yet.
    return undefined
  }
}

const INSERT_ROWS = 1_000

/** Hands over messages by SQL, each statement its own durable commit; one that fails is not acknowledged. */
export async function insertAll(
  { query }: Queryable,
  ledger: Ledger,
  count: number,
  options: {
    readonly first?: number
    readonly stream?: string
    readonly mail?: Record<string, unknown>
  } = {},
): Promise<void> {
  const { first = 1, stream = null, mail = {} } = options
  for (let done = 0; done < count; done += INSERT_ROWS) {
    const keys = Array.from({ length: Math.min(INSERT_ROWS, count - done) }, (_, n) =>
      recipientOf(first + done + n),
    )
    for (const key of keys) ledger.attempt(key)
    const rows = await query<{ id: string; key: string }>(
      `insert into mail.outbox (message, stream)
       select ($1::jsonb || jsonb_build_object('to', key))::json, $3 from unnest($2::text[]) key
       returning id, message->>'to' as key`,
      [JSON.stringify(orderMail(mail)), keys, stream],
    )
    for (const { id, key } of rows) ledger.acknowledge(key, id)
  }
}

/** Of several loads one after the other. */
export function mergeReports(reports: readonly ClientsReport[]): ClientsReport {
  const refused = new Map<number, number>()
  for (const [status, times] of reports.flatMap((report) => [...report.refused])) {
    refused.set(status, (refused.get(status) ?? 0) + times)
  }
  return {
    broken: reports.reduce((sum, { broken }) => sum + broken, 0),
    refused,
    doubled: reports.flatMap(({ doubled }) => doubled),
    weaker: reports.flatMap(({ weaker }) => weaker),
    replayed: reports.reduce((sum, { replayed }) => sum + replayed, 0),
    unadvised: reports.reduce((sum, { unadvised }) => sum + unadvised, 0),
  }
}

/** Promises that answers broke, a sentence each: an API that cannot accept says 503, and a repeat makes no second message. */
export function faultsOf({ refused, doubled, weaker, unadvised }: ClientsReport): string[] {
  return [
    ...[...refused]
      .filter(([status]) => status !== 503)
      .map(([status, times]) => `${times} answers were ${status}`),
    ...(unadvised > 0 ? [`${unadvised} answers of 503 had no Retry-After`] : []),
    ...doubled.map((key) => `the repeat of ${key} was answered with another id`),
    ...weaker.map((key) => `the answer to ${key} promised less than was asked for`),
  ]
}

/** Numbers of what is handed in by SQL, beside requests that count from 1. */
export const FIRST_BY_SQL = 1_000_001
const STEADY_MS = 200

/** Appends by SQL at a steady rate until the signal; a statement that fails is not repeated, and its messages are nobody's. */
export async function insertSteadily(
  server: Queryable,
  ledger: Ledger,
  { first, perS, signal }: { readonly first: number; readonly perS: number; readonly signal: AbortSignal },
): Promise<{ readonly refused: number }> {
  const rows = Math.max(1, Math.round((perS * STEADY_MS) / 1_000))
  let refused = 0
  for (let next = first; !signal.aborted; next += rows) {
    await insertAll(server, ledger, rows, { first: next }).catch(() => {
      refused += 1
    })
    await delay(STEADY_MS)
  }
  return { refused }
}
