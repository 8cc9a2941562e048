import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import {
  GuardedFetchError,
  type GuardedFetchErrorCode,
  type GuardedFetchOptions,
  guardedFetch,
} from '../../src/network/guarded-fetch.ts'
import { reachOf } from '../../src/network/public-addresses.ts'
import { STAND_IN_CERTIFICATE, STAND_IN_CERTIFICATE_KEY } from '../support/provider-stand-ins.ts'

const LIMITS = { timeoutMs: 5_000, maxBytes: 1_000 }

async function listen(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    if ('closeAllConnections' in server) (server as { closeAllConnections(): void }).closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

/** A server of ours, and what is needed to reach it: every guard but the one under test is open. */
async function serve(t: TestContext, answer: RequestListener) {
  const port = await listen(t, createServer(answer))
  const options: GuardedFetchOptions = { ...LIMITS, allowHttp: true, allowPrivate: true, ports: [port] }
  return { url: `http://files.example.test:${port}`, port, options: { ...options, lookup: loopback } }
}

const loopback = async () => [{ address: '127.0.0.1', family: 4 }]

async function refusal(
  url: string,
  options: Partial<GuardedFetchOptions>,
  code: GuardedFetchErrorCode,
): Promise<GuardedFetchError> {
  try {
    await guardedFetch(url, { ...LIMITS, ...options })
  } catch (error) {
    assert.ok(error instanceof GuardedFetchError, String(error))
    assert.equal(error.code, code, error.message)
    return error
  }
  throw new Error(`${url} was not refused`)
}

test('an answer comes back whole: status, headers, body; the name stays in Host', async (t) => {
  const { url, port, options } = await serve(t, (request, response) => {
    response.writeHead(201, { 'X-Seen': String(request.headers.host) })
    let body = ''
    request.on('data', (chunk) => {
      body += chunk
    })
    request.on('end', () => response.end(`${request.method} ${request.headers['accept-encoding']} ${body}`))
  })
  const answer = await guardedFetch(`${url}/a`, {
    ...options,
    method: 'POST',
    body: 'hello',
    headers: { A: 'b' },
  })
  assert.deepEqual(
    [answer.status, answer.headers['x-seen'], answer.body.toString()],
    [201, `files.example.test:${port}`, 'POST identity hello'],
  )
})

describe('an address that is not public is refused in every notation', () => {
  const hosts = [
    ...['127.0.0.1', 'localhost', '2130706433', '0x7f.1', '0177.0.0.1', '127.1', '0', '0.0.0.0'],
    ...['10.0.0.7', '172.16.3.4', '172.31.255.255', '192.168.1.1', '100.64.0.1', '198.18.0.1'],
    ...['169.254.169.254', '168.63.129.16', '100.100.100.200', '224.0.0.1', '255.255.255.255', '240.0.0.1'],
    ...[
      '[::]',
      '[::1]',
      '[::ffff:127.0.0.1]',
      '[::ffff:8.8.8.8]',
      '[0:0:0:0:0:ffff:7f00:1]',
      '[::127.0.0.1]',
    ],
    ...['[fe80::1]', '[fec0::1]', '[fc00::1]', '[fd00:ec2::254]', '[ff02::1]', '[64:ff9b::7f00:1]'],
    ...['[64:ff9b:1::7f00:1]', '[2002:7f00:1::1]', '[2001::1]', '[2001:db8::1]', '[100::1]', '[4000::1]'],
    ...[
      '１２７.0.0.1',
      '127。0。0。1',
      '127.0.0.1.',
      '①②⑦.⓪.⓪.①',
      '%31%32%37.0.0.1',
      '0x7f000001',
      '017700000001',
    ],
    ...['127.0.1', '127.1.', '0x7f.0x0.0x0.0x1', '0177.0x0.1', '192.168.257', '10.1', '172.16.1'],
    ...['192.0.0.192', '192.0.2.1', '192.88.99.1', '233.252.0.1', '100.64.0.0', '100.127.255.255', '0.1.2.3'],
    ...[
      '[::ffff:0:127.0.0.1]',
      '[::ffff:169.254.169.254]',
      '[0:0:0:0:0:0:127.0.0.1]',
      '[64:ff9b::169.254.169.254]',
    ],
    ...[
      '[2002:a9fe:a9fe::]',
      '[2001:0:7f00:1::]',
      '[febf::1]',
      '[fdff::1]',
      '[ff0e::1]',
      '[5f00::1]',
      '[3fff::1]',
    ],
  ]
  for (const host of hosts) {
    test(host, async () => {
      await refusal(`https://${host}/`, {}, 'address_refused')
    })
  }

  test('and what is public is not', () => {
    for (const address of ['8.8.8.8', '172.32.0.1', '100.63.255.255', '100.128.0.1', '11.0.0.1']) {
      assert.equal(reachOf(address), 'public', address)
    }
    for (const address of ['2606:4700::1111', '2a00:1450:4001::200e']) {
      assert.equal(reachOf(address), 'public', address)
    }
  })

  test('however a resolver writes it, and also when what it says is no address', async () => {
    for (const [address, family] of [
      ['fe80::1%eth0', 6],
      ['2606:4700::1111%eth0', 6],
      ['::1%lo', 6],
      ['0:0:0:0:0:ffff:7f00:1', 6],
      ['::FFFF:10.0.0.1', 6],
      // Of the other family than is said.
      ['::ffff:10.0.0.1', 4],
      ['127.0.0.1', 6],
      ['', 4],
      ['x.example', 4],
      ['010.0.0.1', 4],
    ] as const) {
      const lookup = async () => [{ address, family }]
      await refusal('https://files.example.test/', { lookup }, 'address_refused')
      if (address !== '127.0.0.1') {
        await refusal('https://files.example.test/', { lookup, allowPrivate: true }, 'address_refused')
      }
    }
  })

  test('link-local and metadata addresses are refused also where private ones are allowed', async () => {
    for (const host of [
      '169.254.169.254',
      '[fe80::1]',
      '[fd00:ec2::254]',
      '100.100.100.200',
      '[::ffff:10.0.0.1]',
    ]) {
      await refusal(`https://${host}/`, { allowPrivate: true }, 'address_refused')
    }
  })
})

test('one private address among public ones is enough to refuse a name', async () => {
  const lookup = async () => [
    { address: '93.184.216.34', family: 4 },
    { address: '::1', family: 6 },
  ]
  const { message } = await refusal('https://mixed.example.test/', { lookup }, 'address_refused')
  assert.match(message, /mixed\.example\.test leads to ::1/)
})

test('a name is asked for once: one that changes its answer afterwards is still connected where it was checked', async (t) => {
  let connections = 0
  const { url, options } = await serve(t, (_request, response) => {
    connections += 1
    response.end('hello')
  })
  const answers = ['127.0.0.1', '169.254.169.254']
  let asked = 0
  const lookup = async () => {
    asked += 1
    return [{ address: answers.shift() ?? '', family: 4 }]
  }
  const answer = await guardedFetch(url, { ...options, lookup })
  assert.deepEqual([answer.body.toString(), asked, connections], ['hello', 1, 1])
  await refusal(url, { ...options, lookup }, 'address_refused')
  assert.equal(connections, 1)
})

test('a URL is refused for its scheme, its user, its port, or by the caller', async () => {
  for (const url of [
    'http://example.com/',
    'ftp://example.com/',
    'file:///etc/passwd',
    'javascript:alert(1)',
    'x',
  ]) {
    await refusal(url, {}, 'url_refused')
  }
  await refusal('https://user:secret@example.com/', {}, 'url_refused')
  for (const port of [22, 25, 5432, 6379]) await refusal(`https://example.com:${port}/`, {}, 'url_refused')
  const mayReach = (url: URL) => url.hostname !== 'example.com'
  await refusal('https://example.com/', { mayReach }, 'url_refused')
})

test('a URL with a zone, or with a host that is none, is no URL', async () => {
  for (const host of ['[fe80::1%25eth0]', '[fe80::1%eth0]', '256.256.256.256', '1.2.3.4.5.6']) {
    await refusal(`https://${host}/`, {}, 'url_refused')
  }
  for (const url of [
    'https://8.8.8.8@127.0.0.1/',
    'https://127.0.0.1#@8.8.8.8/',
    'https://127.0.0.1?@8.8.8.8/',
  ]) {
    await assert.rejects(guardedFetch(url, LIMITS), GuardedFetchError)
  }
})

test('a redirect is an error, and nobody goes where it leads', async (t) => {
  const paths: (string | undefined)[] = []
  const { url, options } = await serve(t, (request, response) => {
    paths.push(request.url)
    response.writeHead(302, { Location: '/elsewhere' }).end()
  })
  const { message, retryable } = await refusal(`${url}/here`, options, 'answer_refused')
  assert.match(message, /redirect \(302\)/)
  assert.deepEqual([retryable, paths], [false, ['/here']])
})

describe('an answer over the limit is given up', () => {
  test('by its declared length, before a byte of it is read', async (t) => {
    const { url, options } = await serve(t, (_request, response) => {
      response.writeHead(200, { 'Content-Length': 1_001 }).flushHeaders()
    })
    await refusal(url, options, 'answer_too_large')
  })

  test('as it streams, though it would never end', async (t) => {
    const { url, options } = await serve(t, (_request, response) => {
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(500)));
      }
      response.on('drain', more)
      more()
    })
    await refusal(url, options, 'answer_too_large')
  })

  test('and one of exactly the limit is whole', async (t) => {
    const { url, options } = await serve(t, (_request, response) => response.end(Buffer.alloc(1_000)))
    assert.equal((await guardedFetch(url, options)).body.length, 1_000)
  })

  test('also when the caller has no room for it', async (t) => {
    const { url, options } = await serve(t, (_request, response) => response.end(Buffer.alloc(900)))
    const { retryable } = await refusal(url, { ...options, takeBytes: () => false }, 'no_room')
    assert.equal(retryable, true)
  })
})

describe('a request that takes too long is given up', () => {
  const quick = { timeoutMs: 150 }

  test('while the name is resolved', async () => {
    const lookup = () => new Promise<never>(() => undefined)
    await refusal('https://slow.example.test/', { ...quick, lookup }, 'timed_out')
  })

  test('while the server says nothing', async (t) => {
    const { url, options } = await serve(t, () => undefined)
    await refusal(url, { ...options, ...quick }, 'timed_out')
  })

  test('while the body drips', async (t) => {
    const { url, options } = await serve(t, (_request, response) => {
      const timer = setInterval(() => response.write('x'), 20)
      response.on('close', () => clearInterval(timer))
    })
    const { message, retryable } = await refusal(url, { ...options, ...quick }, 'timed_out')
    assert.deepEqual([message, retryable], ['there was no whole answer within 0.15 s', true])
  })

  test('and by the caller’s own signal', async (t) => {
    const stopping = new AbortController()
    const { url, options } = await serve(t, () => stopping.abort())
    await refusal(url, { ...options, signal: stopping.signal }, 'aborted')
  })
})

test('faults of name, connection and answer are told apart', async (t) => {
  const lookup = () => Promise.reject(Object.assign(new Error('no'), { code: 'ENOTFOUND' }))
  await refusal('https://nowhere.example.test/', { lookup }, 'name_not_resolved')
  await refusal('https://empty.example.test/', { lookup: async () => [] }, 'name_not_resolved')
  const closed = await serve(t, () => undefined)
  const reset = await serve(t, (request) => request.socket.destroy())
  await refusal(reset.url, reset.options, 'connection_failed')
  const cut = await serve(t, (request, response) => {
    response.writeHead(200, { 'Content-Length': 100 })
    response.write('half', () => request.socket.destroy())
  })
  await refusal(cut.url, cut.options, 'connection_failed')
  const port = await listen(
    t,
    createTcpServer((socket) => socket.end('220 mail.example.com ESMTP\r\n')),
  )
  await refusal(`http://smtp.example.test:${port}/`, { ...closed.options, ports: [port] }, 'answer_refused')
})

test('TLS is asked for by name, and a certificate nobody vouches for is refused', async (t) => {
  const names: string[] = []
  const server = createTlsServer({
    SNICallback: (name, done) => {
      names.push(name)
      done(null)
    },
    cert: STAND_IN_CERTIFICATE,
    key: STAND_IN_CERTIFICATE_KEY,
  })
  const port = await listen(t, server)
  const options = { allowPrivate: true, ports: [port], lookup: loopback }
  const { retryable } = await refusal(`https://files.example.test:${port}/`, options, 'certificate_refused')
  assert.deepEqual([names, retryable], [['files.example.test'], false])
})
