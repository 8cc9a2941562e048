import type { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { Client, type ClientConfig, DatabaseError, type QueryResult } from 'pg'
import { BeginningQuery } from './beginning-query.ts'
import { ConnectionError } from './connection-error.ts'
import { EndingQuery } from './ending-query.ts'
import type { NoteFault } from './server-trouble.ts'
import type { SilenceWatch } from './silence.ts'
import { LASTLY } from './transaction.ts'
import type { Prepared } from './wire.ts'

/** More than the server's own limit: whoever reaches it no longer speaks to a server at all. */
const QUERY_TIMEOUT_MS = 30_000
/** Without an answer for so long, and each time so much later, the server is asked whether there will be one. */
const DOUBT_MS = 3_000
/** One that is on its way may still arrive. */
const LAST_CHANCE_MS = 1_000

/** The statements that run for every batch; each is planned once a connection instead of every time. */
const HOT = /^\s*\/\* (?:intake|processing|dispatch|feedback|suppression)\.|\bpgboss\./
/** Plans take memory in every connection: past so many different texts, the rest are planned each time. */
const MAX_PREPARED = 200
const preparedNames = new Map<string, string>()

function preparedNameOf(text: string): string | undefined {
  const known = preparedNames.get(text)
  if (known !== undefined || preparedNames.size >= MAX_PREPARED || !HOT.test(text)) return known
  const name = `sluice_${preparedNames.size}`
  preparedNames.set(text, name)
  return name
}

export type PoolClientOptions = ClientConfig & {
  readonly isPooled?: boolean
  readonly queryTimeoutMs?: number | undefined
  readonly doubtMs?: number | undefined
  readonly watch?: SilenceWatch
  /** Told whenever a connection is given up because nothing was heard on it. */
  readonly onSilence?: () => void
  /** Told of every error that a statement ends with. */
  readonly onFault?: NoteFault
}

/**
 * `begun`: the server knows nothing of it yet, as `begin` goes with its first statement. `committed`: with its last statement, and
 * nobody has asked for it yet.
 */
type TransactionState = 'none' | 'begun' | 'open' | 'committed'

/**
 * A client that names hot statements, which is how the driver prepares them, and that gives up a connection
 * on which the server does not answer. The driver's own `query_timeout` would leave it in use: a transaction
 * would go back to the pool with its statement still under way, and hold up everybody after it.
 */
export class PoolClient extends Client {
  readonly #options: PoolClientOptions
  readonly #startedAt = performance.now()
  #isLost = false
  #isServer = false
  #transaction: TransactionState = 'none'
  /** When the server was last heard, by `performance.now()`. */
  heardAt = this.#startedAt

  constructor(options: PoolClientOptions = {}) {
    super(options)
    this.#options = options
    const lose = () => {
      this.#isLost = true
    }
    this.on('error', lose)
    this.on('end', lose)
  }

  /** With what the server calls its process. A pooler that greets by itself makes up another number. */
  recognize(pid: number): void {
    const { processID } = this as unknown as { processID: number | null }
    this.#isServer = processID === pid
  }

  // biome-ignore lint/suspicious/noExplicitAny: the driver's own signature has a dozen overloads
  override query(...args: any[]): any {
    const callback = typeof args.at(-1) === 'function' ? args.pop() : undefined
    const answer = this.#heldBack(args[0]) ?? this.#answerOf(this.#run(args))
    if (callback === undefined) return answer
    answer.then((result) => callback(undefined, result), callback)
  }

  /** What the server need not hear by itself: `begin` goes with the first statement, and `commit` may go with the last. */
  #heldBack(text: unknown): Promise<QueryResult> | undefined {
    const before = this.#transaction
    if (text === 'begin') this.#transaction = 'begun'
    else if (text !== 'commit' && text !== 'rollback') return undefined
    else {
      this.#transaction = 'none'
      if (before === 'none' || before === 'open') return undefined
      if (before === 'committed' && text === 'rollback')
        return Promise.reject(
          new Error('too late to roll back: the last statement of the transaction took its commit along'),
        )
    }
    return Promise.resolve({ command: text.toUpperCase(), rowCount: null, oid: 0, fields: [], rows: [] })
  }

  async #run(args: unknown[]): Promise<unknown> {
    const [text, values] = args
    const isFirst = this.#transaction === 'begun'
    if (this.#transaction === 'committed')
      throw new Error('a statement came after the last of its transaction')
    // A name belongs to one server connection, and through a pooler the next transaction may be on another.
    const isPreparable = this.#options.isPooled !== true && typeof text === 'string' && Array.isArray(values)
    const name = isPreparable ? preparedNameOf(text) : undefined
    if (name === undefined) {
      if (isFirst) await this.#begin()
      return super.query(...(args as Parameters<Client['query']>))
    }
    const hot = { name, text: text as string, values: values as unknown[] }
    if (this.#transaction !== 'none' && hot.text.includes(LASTLY)) return this.#runLast(hot, isFirst)
    if (!isFirst) return super.query(hot)
    this.#transaction = 'open'
    return this.#submit(BeginningQuery, hot)
  }

  #begin(): Promise<unknown> {
    this.#transaction = 'open'
    return super.query('begin')
  }

  /** One that is the first as well is a transaction by itself. */
  async #runLast(hot: Prepared, isFirst: boolean): Promise<unknown> {
    const result = await (isFirst ? super.query(hot) : this.#submit(EndingQuery, hot))
    this.#transaction = 'committed'
    return result
  }

  #submit(kind: typeof BeginningQuery | typeof EndingQuery, hot: Prepared): Promise<unknown> {
    return new Promise((resolve, reject) => {
      super.query(new kind(hot, (error, result) => (error ? reject(error) : resolve(result))))
    })
  }

  async #answerOf(running: unknown): Promise<unknown> {
    const { queryTimeoutMs = QUERY_TIMEOUT_MS, doubtMs = DOUBT_MS } = this.#options
    const statement = { isOver: false, isDoubted: false }
    const limit = setTimeout(() => this.#giveUp(`no answer within ${queryTimeoutMs} ms`), queryTimeoutMs)
    const doubt = setInterval(() => void this.#doubt(statement), doubtMs)
    try {
      const answer = await running
      this.heardAt = performance.now()
      return answer
    } catch (error) {
      this.#options.onFault?.(error)
      throw this.#isLost && !(error instanceof DatabaseError) ? new ConnectionError(error) : error
    } finally {
      statement.isOver = true
      clearTimeout(limit)
      clearInterval(doubt)
    }
  }

  /** Gives the connection up when the server is done with the statement, or never got it, and nothing arrives. */
  async #doubt(statement: { readonly isOver: boolean; isDoubted: boolean }): Promise<void> {
    const { watch } = this.#options
    const { processID: pid } = this as unknown as { processID: number | null }
    if (watch === undefined || !this.#isServer || pid === null || statement.isDoubted) return
    statement.isDoubted = true
    const progress = this.#progress
    const backend = { pid, ageS: (performance.now() - this.#startedAt) / 1_000 }
    if ((await watch.isAtWork(backend)) === false) {
      await delay(LAST_CHANCE_MS)
      if (!statement.isOver && this.#progress === progress) {
        this.#giveUp('the server waits for us, and its answer does not arrive')
        void watch.end(backend)
      }
    }
    statement.isDoubted = false
  }

  /** Grows with every byte that comes in, and with every one that leaves. */
  get #progress(): number {
    const { bytesRead, writableLength } = this.connection.stream as Socket
    return bytesRead - writableLength
  }

  #giveUp(reason: string): void {
    this.#options.onSilence?.()
    this.connection.stream.destroy(new Error(reason))
  }
}
