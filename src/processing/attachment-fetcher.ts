import { hash } from 'node:crypto'
import { keepAttachments } from '../attachment-store.ts'
import type { ByteClaim, ByteRoom } from '../byte-room.ts'
import { reached } from '../crash-point.ts'
import type { Database } from '../db/pool.ts'
import { MAX_ATTACHMENTS_BYTES } from '../message/message.ts'
import {
  type GuardedAnswer,
  GuardedFetchError,
  guardedFetch,
  type ResolvedAddress,
} from '../network/guarded-fetch.ts'
import { findListedHost, type ListedHost } from '../network/listed-hosts.ts'
import { sealBytes } from '../sealer.ts'

const TIMEOUT_MS = 30_000
/** So long one answer serves every message with that URL: a newsletter names the same picture in all its mails. */
const REUSED_MS = 60_000
const MAX_REUSED = 1_000
const MAX_SHOWN_URL_CHARS = 300

export type FetchFault =
  /** Nothing the host did: it is tried again, and no attempt is counted. */
  | 'busy'
  /** May be over in some minutes. */
  | 'unavailable'
  /** Will be the same next time. */
  | 'refused'

export class FetchFailure extends Error {
  readonly fault: FetchFault

  constructor(fault: FetchFault, message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'FetchFailure'
    this.fault = fault
  }
}

/** As it is stored; `key` opens what was sealed. */
export type FetchedContent = { readonly sha256: string; readonly size: number; readonly key?: string }

export type FetcherOptions = {
  readonly db: Database
  readonly hosts: readonly ListedHost[]
  /** What all answers being read may hold together. */
  readonly room: ByteRoom
  readonly lookup?: (hostname: string) => Promise<readonly ResolvedAddress[]>
  readonly timeoutMs?: number
}

/** Fetches attachments from the hosts that are listed, and stores their bytes. One a process. */
export class AttachmentFetcher {
  readonly #options: FetcherOptions
  readonly #stopping = new AbortController()
  /** By URL, and apart from those what was sealed; oldest first: under way, or answered a moment ago. */
  readonly #recent = new Map<string, { readonly answer: Promise<FetchedContent>; readonly since: number }>()

  constructor(options: FetcherOptions) {
    this.#options = options
  }

  /** For sensitive mail the bytes are stored sealed. Throws a FetchFailure, or what the database throws. */
  async fetch(
    path: string,
    { isSensitive = false }: { isSensitive?: boolean } = {},
  ): Promise<FetchedContent> {
    const name = isSensitive ? `sealed ${path}` : path
    const known = this.#recent.get(name)
    if (known !== undefined && performance.now() - known.since < REUSED_MS) return known.answer
    const answer = this.#fetchAnew(path, isSensitive)
    this.#remember(name, answer)
    try {
      return await answer
    } catch (error) {
      if (this.#recent.get(name)?.answer === answer) this.#recent.delete(name)
      throw error
    }
  }

  /** Gives up what is under way. */
  stop(): void {
    this.#stopping.abort()
  }

  #remember(name: string, answer: Promise<FetchedContent>): void {
    this.#recent.delete(name)
    this.#recent.set(name, { answer, since: performance.now() })
    const [oldest] = this.#recent.keys()
    if (this.#recent.size > MAX_REUSED && oldest !== undefined) this.#recent.delete(oldest)
  }

  async #fetchAnew(path: string, isSensitive: boolean): Promise<FetchedContent> {
    const claim = this.#options.room.open()
    try {
      const { body } = check(path, await this.#ask(path, claim))
      const { bytes, ...key } = isSensitive ? sealBytes(body) : { bytes: body }
      const sha256 = hash('sha256', bytes, 'hex')
      await keepAttachments(this.#options.db, [{ sha256, bytes }])
      reached('fetching.kept')
      return { sha256, size: bytes.length, ...key }
    } finally {
      claim.release()
    }
  }

  async #ask(path: string, claim: ByteClaim): Promise<GuardedAnswer> {
    const { hosts, lookup, timeoutMs = TIMEOUT_MS } = this.#options
    const listed = findListedHost(hosts, new URL(path))
    if (listed === undefined) {
      throw failure(
        'refused',
        path,
        'its host is not among those that the setting SLUICE_ATTACHMENT_HOSTS lists',
      )
    }
    try {
      return await guardedFetch(path, {
        headers: { Accept: '*/*', 'User-Agent': 'Sluice' },
        timeoutMs,
        maxBytes: MAX_ATTACHMENTS_BYTES,
        // An entry with http:// is a host of one's own.
        allowHttp: listed.protocol === 'http:',
        allowPrivate: listed.protocol === 'http:',
        ports: [listed.port],
        takeBytes: (bytes) => claim.take(bytes),
        signal: this.#stopping.signal,
        ...(lookup !== undefined && { lookup }),
      })
    } catch (error) {
      if (!(error instanceof GuardedFetchError)) throw error
      const isOurs = error.code === 'no_room' || error.code === 'aborted'
      throw failure(isOurs ? 'busy' : error.retryable ? 'unavailable' : 'refused', path, error.message, error)
    }
  }
}

function check(path: string, answer: GuardedAnswer): GuardedAnswer {
  const { status, headers, body } = answer
  if (status !== 200) {
    const isTemporary = status >= 500 || status === 429 || status === 408
    throw failure(isTemporary ? 'unavailable' : 'refused', path, `it answered with status ${status}`)
  }
  const encoding = headers['content-encoding'] ?? 'identity'
  if (encoding !== 'identity') {
    throw failure('refused', path, `it answered with encoding ${encoding}, though none was allowed`)
  }
  if (body.length === 0) throw failure('refused', path, 'it is empty')
  return answer
}

/** Without the query, which may hold a signature that lets its bearer read the file. */
function failure(fault: FetchFault, path: string, why: string, cause?: unknown): FetchFailure {
  const { origin, pathname } = new URL(path)
  const shown = `${origin}${pathname}`.slice(0, MAX_SHOWN_URL_CHARS)
  return new FetchFailure(fault, `${shown} could not be fetched: ${why}`, cause)
}
