import { Webhook } from 'standardwebhooks'
import { GuardedFetchError, guardedFetch, type ResolvedAddress } from '../network/guarded-fetch.ts'
import type { ListedHost } from '../network/listed-hosts.ts'
import { webhookTarget } from '../webhook-target.ts'

const TIMEOUT_MS = 10_000
const MAX_ANSWER_BYTES = 64 * 1_024

export type RequestDeps = {
  /** SLUICE_WEBHOOK_HOSTS. */
  readonly hosts: readonly ListedHost[]
  readonly lookup?: (hostname: string) => Promise<readonly ResolvedAddress[]>
  readonly timeoutMs?: number
  /** Milliseconds since the epoch. */
  readonly now: () => number
}

export type AlertRequest = {
  /** The same at every attempt. */
  readonly id: string
  readonly url: string
  readonly body: string
  /** `whsec_` and base64; unset: not signed. */
  readonly secret: string | undefined
}

/** POSTs one message; undefined when it was taken, otherwise why not. The reason never holds the URL, which may be a secret. */
export async function postAlerts(
  deps: RequestDeps,
  { id, url, body, secret }: AlertRequest,
  signal: AbortSignal,
): Promise<string | undefined> {
  const target = webhookTarget(url, deps.hosts)
  if (!target.ok) return `the URL is refused: ${target.reason}`
  try {
    const answer = await guardedFetch(url, {
      method: 'POST',
      headers: {
        'Content-Type': 'application/json',
        'User-Agent': 'Sluice-Alerts/1',
        ...(secret !== undefined && signatureHeaders(id, body, secret, new Date(deps.now()))),
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
    return answer.status >= 200 && answer.status < 300
      ? undefined
      : `it answered with status ${answer.status}`
  } catch (error) {
    if (!(error instanceof GuardedFetchError)) throw error
    return error.message
  }
}

/** Standard Webhooks, "Webhook headers". */
function signatureHeaders(id: string, body: string, secret: string, at: Date): Record<string, string> {
  return {
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1_000)),
    'webhook-signature': new Webhook(secret).sign(id, at, body),
  }
}
