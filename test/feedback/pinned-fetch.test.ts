import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { createPinnedFetch } from '../../src/feedback/pinned-fetch.ts'

const LIMITS = { maxBytes: 1_000, timeoutMs: 5_000 }

/** The fetch under test, whose https://sns.test is this server on loopback. */
async function serve(t: TestContext, listener: RequestListener) {
  const requests: string[] = []
  const server = createServer((request, response) => {
    requests.push(request.url ?? '')
    listener(request, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const fetchPinned = createPinnedFetch((url, init) =>
    fetch(String(url).replace('https://sns.test', `http://127.0.0.1:${port}`), init),
  )
  return { fetchPinned, requests }
}

test('an answer comes with its status and body', async (t) => {
  const { fetchPinned } = await serve(t, (_request, response) => response.end('x'.repeat(1_000)))
  assert.deepEqual(await fetchPinned('https://sns.test/a', LIMITS), {
    kind: 'answered',
    status: 200,
    body: 'x'.repeat(1_000),
  })
})

test('a redirect is an answer and is not followed', async (t) => {
  const { fetchPinned, requests } = await serve(t, (_request, response) =>
    response.writeHead(302, { Location: '/elsewhere' }).end(),
  )
  const fetched = await fetchPinned('https://sns.test/a', LIMITS)
  assert.partialDeepStrictEqual(fetched, { kind: 'answered', status: 302 })
  assert.deepEqual(requests, ['/a'])
})

test('a body over the limit is cut off while it comes, also one without end', async (t) => {
  const { fetchPinned } = await serve(t, (_request, response) => {
    const more = () => response.write('x'.repeat(500), (error) => error ?? setImmediate(more))
    more()
  })
  assert.deepEqual(await fetchPinned('https://sns.test/a', LIMITS), {
    kind: 'answered',
    status: 200,
    body: undefined,
  })
})

test('a server that hangs, breaks off or is not there is unreachable, and so is everything but https', async (t) => {
  const { fetchPinned, requests } = await serve(t, (request, response) => {
    if (request.url === '/reset') response.destroy()
  })
  const short = { ...LIMITS, timeoutMs: 200 }
  for (const url of ['https://sns.test/hang', 'https://sns.test/reset']) {
    assert.equal((await fetchPinned(url, short)).kind, 'unreachable')
  }
  const asked = requests.length
  for (const url of ['http://sns.test/a', 'file:///etc/passwd', '']) {
    assert.equal((await fetchPinned(url, short)).kind, 'unreachable')
  }
  assert.equal(requests.length, asked)
})
