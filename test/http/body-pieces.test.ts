import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { ApiError } from '../../src/errors.ts'
import { readPieces } from '../../src/http/body-pieces.ts'

const PATIENT = { silenceMs: 60_000, totalMs: 60_000 }

function requestOf(body: ReadableStream<Uint8Array>): Request {
  return new Request('http://localhost/', { method: 'POST', body, duplex: 'half' } as RequestInit)
}

async function read(body: ReadableStream<Uint8Array>, limits = PATIENT): Promise<string> {
  let all = ''
  for await (const piece of readPieces(requestOf(body), limits)) all += Buffer.from(piece).toString()
  return all
}

async function refusalOf(reading: Promise<string>): Promise<ApiError> {
  const error = await reading.catch((reason: unknown) => reason)
  assert.ok(error instanceof ApiError, String(error))
  return error
}

describe('a body', () => {
  test('comes piece by piece', async () => {
    assert.equal(await read(new Blob(['one', 'two']).stream()), 'onetwo')
  })

  test('whose sender falls silent is given up, and the sender is told by its stream', async () => {
    const canceled = Promise.withResolvers<void>()
    const silent = new ReadableStream<Uint8Array>({
      start: (body) => body.enqueue(Buffer.from('{"message":')),
      cancel: () => canceled.resolve(),
    })
    const error = await refusalOf(read(silent, { ...PATIENT, silenceMs: 20 }))
    assert.deepEqual([error.status, error.code], [408, 'validation_error'])
    await canceled.promise
  })

  test('that never ends is given up, however steadily it comes', async () => {
    const endless = new ReadableStream<Uint8Array>({
      pull: (body) =>
        new Promise((resolve) => setTimeout(resolve, 5)).then(() => body.enqueue(Buffer.from(' '))),
    })
    assert.equal((await refusalOf(read(endless, { ...PATIENT, totalMs: 50 }))).status, 408)
  })

  test('that breaks off is the sender’s fault', async () => {
    const broken = new ReadableStream<Uint8Array>({ start: (body) => body.error(new Error('aborted')) })
    assert.equal((await refusalOf(read(broken))).status, 400)
  })
})
