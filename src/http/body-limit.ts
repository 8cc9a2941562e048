import type { Context, MiddlewareHandler } from 'hono'
import { type ByteClaim, ByteRoom } from '../byte-room.ts'
import { ApiError } from '../errors.ts'
import { readPieces } from './body-pieces.ts'

/** With what is left of a body, its sender holds on to room that others want. */
export const PATIENCE = { silenceMs: 15_000, totalMs: 60_000 }

/**
 * Refuses a body over the limit, by its declared length, which the HTTP parser holds the sender to; only a body
 * without one is counted as it streams, which costs several times as much. What all requests under way hold
 * together is bounded by `budget`, if there is one: a body is held from its first byte until its request is
 * answered. Of strangers only what has `arrived` takes room: a length is declared for nothing. `whose` limit it is
 * ends the sentence of the error.
 */
export function limitBodyTo(
  maxBytes: number,
  whose: string,
  budget = new ByteRoom(Number.POSITIVE_INFINITY),
  counts: 'declared' | 'arrived' = 'declared',
): MiddlewareHandler {
  const tooLarge = () =>
    new ApiError(
      'payload_too_large',
      `The request body is larger than ${maxBytes} bytes, the limit ${whose}.`,
    )
  return async function limitBody(c, next) {
    const claim = budget.open()
    try {
      const declared = c.req.header('Content-Length')
      // RFC 9112 section 6.3: with a transfer coding the length says nothing.
      const isDeclared = declared !== undefined && c.req.header('Transfer-Encoding') === undefined
      if (isDeclared && Number(declared) > maxBytes) throw tooLarge()
      if (!isDeclared || counts === 'arrived') {
        await readCounted(c, maxBytes, claim, tooLarge)
      } else {
        if (!claim.take(Number(declared))) throw tooMany()
      }
      await next()
    } finally {
      claim.release()
    }
  }
}

async function readCounted(
  c: Context,
  maxBytes: number,
  claim: ByteClaim,
  tooLarge: () => ApiError,
): Promise<void> {
  if (c.req.raw.body === null) return
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const piece of readPieces(c.req.raw, PATIENCE)) {
    size += piece.length
    if (size > maxBytes) throw tooLarge()
    if (!claim.take(piece.length)) throw tooMany()
    chunks.push(piece)
  }
  c.req.raw = new Request(c.req.raw, { body: Buffer.concat(chunks) })
}

export function tooMany(): ApiError {
  return new ApiError(
    'service_unavailable',
    'The request was not read: as much as can be held at once is being read already. Repeat it.',
    { retryAfterS: 2 },
  )
}
