import type { Clock } from '../database-clock.ts'
import { GuardedFetchError, guardedFetch, type ResolvedAddress } from '../network/guarded-fetch.ts'
import type { ListedHost } from '../network/listed-hosts.ts'
import { webhookTarget } from '../webhook-target.ts'
import { signatureHeaders } from './signature.ts'
import type { Answer } from './verdict.ts'

const TIMEOUT_MS = 15_000
/** Nobody needs to answer a webhook with more; beyond it the request counts as failed. */
const MAX_ANSWER_BYTES = 256 * 1_024
const KEPT_BYTES = 1_024

export type RequestDeps = {
  /** SLUICE_WEBHOOK_HOSTS. */
  readonly hosts: readonly ListedHost[]
  /** Receivers refuse a signature that is minutes old: the database's clock, whatever this machine's is. */
  readonly clock: Clock
  readonly lookup?: (hostname: string) => Promise<readonly ResolvedAddress[]>
  readonly timeoutMs?: number
}

export type WebhookRequest = {
  readonly id: string
  readonly url: string
  readonly body: string
  readonly secrets: readonly string[]
}

/** POSTs one signed event; never throws for what the endpoint, its name or its network do. */
export async function postWebhook(
  deps: RequestDeps,
  { id, url, body, secrets }: WebhookRequest,
  signal: AbortSignal,
): Promise<Answer> {
  const target = webhookTarget(url, deps.hosts)
  if (!target.ok) return failed(target.reason)
  try {
    const answer = await guardedFetch(url, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/json',
        'User-Agent': 'Sluice-Webhooks/1',
        ...signatureHeaders({ id, body, secrets, at: new Date(deps.clock.now()) }),
      },
      body: Buffer.from(body),
      timeoutMs: deps.timeoutMs ?? TIMEOUT_MS,
      maxBytes: MAX_ANSWER_BYTES,
      allowHttp: target.allowHttp,
      allowPrivate: target.allowPrivate,
      ports: target.ports,
      signal,
      ...(deps.lookup !== undefined && { lookup: deps.lookup }),
    })
    return { status: answer.status, response: excerptOf(answer.body), error: null, isAborted: false }
  } catch (error) {
    if (!(error instanceof GuardedFetchError)) throw error
    return { ...failed(error.message), isAborted: error.code === 'aborted' }
  }
}

function failed(error: string): Answer {
  return { status: null, response: null, error: storable(error), isAborted: false }
}

/** Strangers' bytes: Postgres takes neither NUL nor half a surrogate pair. */
function excerptOf(body: Buffer): string {
  return storable(body.subarray(0, KEPT_BYTES).toString('utf8'))
}

function storable(text: string): string {
  return text.replaceAll('\0', '').toWellFormed()
}
