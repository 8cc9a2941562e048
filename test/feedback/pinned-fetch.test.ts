import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { createPinnedFetch, type PinnedFetch } from '../../src/feedback/pinned-fetch.ts'

import type { GuardedFetchError } from '../../src/network/guarded-fetch.ts'

const loopback = async () => [{ address: '127.0.0.1', family: 4 }]
const LIMITS = { maxBytes: 1_000, timeoutMs: 5_000 }

const URL = 'http://sns.test'

/** The fetch under test, opened for plain http to this server on loopback. */
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
  const opened = createPinnedFetch({ allowHttp: true, allowPrivate: true, ports: [port], lookup: loopback })
  const fetchPinned: PinnedFetch = (url, limits) => opened(url.replace(URL, `${URL}:${port}`), limits)
  return { fetchPinned, requests }
}

test('an answer comes with its status and body', async (t) => {
  const { fetchPinned } = await serve(t, (_request, response) => response.end('x'.repeat(1_000)))
  assert.deepEqual(await fetchPinned(`${URL}/a`, LIMITS), {
    kind: 'answered',
    status: 200,
    body: 'x'.repeat(1_000),
  })
})

test('a redirect is of no use and is not followed', async (t) => {
  const { fetchPinned, requests } = await serve(t, (_request, response) =>
    response.writeHead(302, { Location: '/elsewhere' }).end(),
  )
  assert.equal((await fetchPinned(`${URL}/a`, LIMITS)).kind, 'unusable')
  assert.deepEqual(requests, ['/a'])
})

test('a body over the limit is cut off while it comes, also one without end', async (t) => {
  const { fetchPinned } = await serve(t, (_request, response) => {
    const more = () => response.write('x'.repeat(500), (error) => error ?? setImmediate(more))
    more()
  })
  assert.equal((await fetchPinned(`${URL}/a`, LIMITS)).kind, 'unusable')
})

test('a server that hangs or breaks off is unreachable', async (t) => {
  const { fetchPinned } = await serve(t, (request, response) => {
    if (request.url === '/reset') response.destroy()
  })
  for (const path of ['/hang', '/reset']) {
    assert.equal((await fetchPinned(`${URL}${path}`, { ...LIMITS, timeoutMs: 200 })).kind, 'unreachable')
  }
})

test('as the service has it, nobody is asked but https on its own port at a public address', async () => {
  const asked: string[] = []
  const lookup = async (hostname: string) => {
    asked.push(hostname)
    return [{ address: '10.0.0.1', family: 4 }]
  }
  const fetchPinned = createPinnedFetch({ lookup })
  const codeOf = async (url: string) => {
    const fetched = await fetchPinned(url, LIMITS)
    return fetched.kind === 'unreachable' ? (fetched.error as GuardedFetchError).code : fetched.kind
  }
  for (const url of ['http://sns.test/a', 'https://sns.test:8443/a', 'file:///etc/passwd', '']) {
    assert.equal(await codeOf(url), 'url_refused', url)
  }
  assert.deepEqual(asked, [])
  assert.equal(await codeOf('https://sns.test/a'), 'address_refused')
})
