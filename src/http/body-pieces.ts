import { ApiError } from '../errors.ts'
import { malformed } from './body.ts'
import type { BulkLimits } from './deps.ts'

/**
 * The pieces of a body as they arrive. A sender that is silent for too long, or not done in all the time there is,
 * is answered 408 and given up: what it sends goes straight into a transaction, which must not stay open for it.
 */
export async function* readPieces(
  request: Request,
  { silenceMs, totalMs }: Pick<BulkLimits, 'silenceMs' | 'totalMs'>,
): AsyncGenerator<Uint8Array> {
  if (request.body === null) return
  const reader: ReadableStreamDefaultReader<Uint8Array> = request.body.getReader()
  const end = performance.now() + totalMs
  try {
    for (;;) {
      const piece = await within(reader.read(), Math.min(silenceMs, end - performance.now()))
      if (piece.done) return
      yield piece.value
    }
  } finally {
    // Not awaited: a stream whose sender is silent does not settle.
    reader.cancel().catch(() => undefined)
  }
}

async function within<T>(reading: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(tooSlow()), Math.max(ms, 0))
  })
  const arrived = reading.catch((error: unknown) => {
    throw malformed('The request ended before its body was complete.', error)
  })
  try {
    return await Promise.race([arrived, late])
  } finally {
    clearTimeout(timer)
  }
}

function tooSlow(): ApiError {
  return new ApiError('validation_error', 'The body arrived too slowly. Repeat the request.', {
    status: 408,
  })
}
