import type { SendOutcome, Transport } from './transport.ts'

/** Of attachments in one request: a third more as base64, and at once in memory. */
const MAX_ATTACHMENT_BYTES = 8 * 1_024 * 1_024

/**
 * What goes together over a transport: everything, but for mail with attachments, which goes by itself where a batch may
 * not have any, and otherwise with as many others as one request should hold.
 */
export function requestsOf<T>(
  batch: Transport['batch'],
  items: readonly T[],
  attachmentBytes: (item: T) => number | undefined,
): T[][] {
  const requests: T[][] = []
  const alone: T[][] = []
  let room = 0
  for (const item of items) {
    const bytes = attachmentBytes(item)
    if (bytes !== undefined && batch?.takesAttachments !== true) {
      alone.push([item])
      continue
    }
    const request = requests.at(-1)
    if (request === undefined || (bytes !== undefined && bytes > room)) {
      requests.push([item])
      room = MAX_ATTACHMENT_BYTES
    } else {
      request.push(item)
    }
    room -= bytes ?? 0
  }
  return [...requests, ...alone]
}

/** For what waited behind a request that ended in a fault of the provider, which asks it of everyone. */
export function leftUnsent({ rate }: SendOutcome): SendOutcome {
  return {
    kind: 'unreachable',
    code: 'service_unavailable',
    reason: 'not sent, because the provider failed with the messages before it',
    ...(rate === undefined ? {} : { rate }),
  }
}

/** For what waited behind requests that do not end. */
export const STALLED: SendOutcome = {
  kind: 'unreachable',
  code: 'service_unavailable',
  reason: 'not sent, because the provider does not answer the messages before it',
}
