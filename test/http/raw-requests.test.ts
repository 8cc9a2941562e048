import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { before, describe, test } from 'node:test'
import { Hono } from 'hono'
import { listen } from '../../src/http/server.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { exchange, openRaw } from '../support/raw-http.ts'
import { orderMail, type SpawnedService, spawnService, TEST_KEY } from '../support/service.ts'

const MAX_BODY_BYTES = 1_000_000

let database: TestDatabase
let service: SpawnedService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await spawnService(t as Parameters<typeof spawnService>[0], database.url, {
    SLUICE_ROLES: 'api',
    SLUICE_MAX_BODY_BYTES: String(MAX_BODY_BYTES),
  })
})

const MAIL = JSON.stringify(orderMail())
const POST = `POST /emails HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer ${TEST_KEY}\r\nContent-Type: application/json\r\n`
const WELL = 'GET /healthz HTTP/1.1\r\nHost: a.test\r\n'
const LENGTH = `Content-Length: ${MAIL.length}\r\n`
const CHUNKED = `${MAIL.length.toString(16)}\r\n${MAIL}\r\n0\r\n\r\n`
const SMUGGLED = `POST /emails HTTP/1.1\r\nHost: evil.test\r\n\r\n`

/** What two servers in a row may read as different requests: refused, and nothing behind it is looked at. */
const REFUSED: Readonly<Record<string, readonly [request: string, status: number]>> = {
  'a length and a coding': [`${POST}${LENGTH}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n${SMUGGLED}`, 400],
  'a coding and a length': [`${POST}Transfer-Encoding: chunked\r\n${LENGTH}\r\n${CHUNKED}`, 400],
  'two lengths': [`${POST}${LENGTH}Content-Length: 1\r\n\r\n${MAIL}`, 400],
  'the same length twice': [`${POST}${LENGTH}${LENGTH}\r\n${MAIL}`, 400],
  'a list of lengths': [`${POST}Content-Length: ${MAIL.length}, ${MAIL.length}\r\n\r\n${MAIL}`, 400],
  'a length with a sign': [`${POST}Content-Length: +${MAIL.length}\r\n\r\n${MAIL}`, 400],
  'a negative length': [`${POST}Content-Length: -1\r\n\r\n${MAIL}`, 400],
  'a length in hexadecimal': [`${POST}Content-Length: 0x10\r\n\r\n${MAIL}`, 400],
  'a length beyond numbers': [`${POST}Content-Length: 99999999999999999999\r\n\r\n`, 400],
  'another coding': [`${POST}Transfer-Encoding: xchunked\r\n\r\n${CHUNKED}`, 400],
  'a coding behind chunked': [`${POST}Transfer-Encoding: chunked, identity\r\n\r\n${CHUNKED}`, 400],
  'two headers of codings': [
    `${POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n${CHUNKED}`,
    400,
  ],
  'a coding in quotes': [`${POST}Transfer-Encoding: "chunked"\r\n\r\n${CHUNKED}`, 400],
  'a coding behind a vertical tab': [`${POST}Transfer-Encoding:\vchunked\r\n\r\n${CHUNKED}`, 400],
  'a space before the colon': [`${POST}Transfer-Encoding : chunked\r\n\r\n${CHUNKED}`, 400],
  'a folded coding': [`${POST}Transfer-Encoding:\r\n chunked\r\n\r\n${CHUNKED}`, 400],
  'a folded header': [`${WELL}X-A: a\r\n b\r\n\r\n`, 400],
  'bare line feeds': ['GET /healthz HTTP/1.1\nHost: a.test\n\n', 400],
  'a line feed in a header': [`${WELL}X-A: a\nContent-Length: 5\r\n\r\n`, 400],
  'a carriage return in a header': [`${WELL}X-A: a\rContent-Length: 5\r\n\r\n`, 400],
  'a NUL in a header': [`${WELL}X-A: a\0b\r\n\r\n`, 400],
  'a space before a header': ['GET /healthz HTTP/1.1\r\n Host: a.test\r\n\r\n', 400],
  'a size in 0x': [`${POST}Transfer-Encoding: chunked\r\n\r\n0x5\r\n{"a":\r\n0\r\n\r\n`, 400],
  'a size beyond numbers': [`${POST}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{`, 400],
  'a chunk longer than its size': [`${POST}Transfer-Encoding: chunked\r\n\r\n1\r\n{}XX0\r\n\r\n`, 400],
  'a line feed behind an extension': [
    `${POST}Transfer-Encoding: chunked\r\n\r\n1;a\n{\r\n0\r\n\r\n${SMUGGLED}`,
    400,
  ],
  'extensions without end': [
    `${POST}Transfer-Encoding: chunked\r\n\r\n1;${'a=b;'.repeat(20_000)}\r\n{\r\n0\r\n\r\n`,
    413,
  ],
  'a length among the trailers': [
    `${POST}Transfer-Encoding: chunked\r\n\r\n${CHUNKED.slice(0, -2)}Content-Length: 3\r\n\r\n`,
    400,
  ],
  'trailers without end': [
    `${POST}Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n${'x: y\r\n'.repeat(5_000)}\r\n`,
    431,
  ],
  'headers without number': [`${WELL}${'a: b\r\n'.repeat(5_000)}\r\n`, 431],
  'a path without end': [`GET /${'a'.repeat(20_000)} HTTP/1.1\r\nHost: a.test\r\n\r\n`, 431],
  'no host': ['GET /healthz HTTP/1.1\r\n\r\n', 400],
  'two hosts': [`${WELL}Host: b.test\r\n\r\n`, 400],
  'the same host twice': [`${WELL}host: a.test\r\n\r\n`, 400],
  'an empty host': ['GET /healthz HTTP/1.1\r\nHost:\r\n\r\n', 400],
  'a host with a user': ['GET /healthz HTTP/1.1\r\nHost: a.test@evil.test\r\n\r\n', 400],
  'a host with a path': ['GET /healthz HTTP/1.1\r\nHost: evil.test/emails?\r\n\r\n', 400],
  'a host with a port beyond ports': ['GET /healthz HTTP/1.1\r\nHost: a.test:65536\r\n\r\n', 400],
  'HTTP/1.0 without a host': ['GET /healthz HTTP/1.0\r\n\r\n', 400],
  'HTTP/0.9': ['GET /healthz\r\n\r\n', 505],
  'HTTP/2 in words': ['GET /healthz HTTP/2.0\r\nHost: a.test\r\n\r\n', 505],
  'HTTP/1.2': ['GET /healthz HTTP/1.2\r\nHost: a.test\r\n\r\n', 400],
  'the preface of HTTP/2': ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
  TLS: ['\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
  'another scheme': ['GET ftp://a.test/healthz HTTP/1.1\r\nHost: a.test\r\n\r\n', 400],
  'a user in the target': ['GET http://u:p@a.test/healthz HTTP/1.1\r\nHost: a.test\r\n\r\n', 400],
  'a target without a slash': ['GET healthz HTTP/1.1\r\nHost: a.test\r\n\r\n', 400],
  'an asterisk': ['OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n', 400],
  'a method nobody knows': ['FROB /healthz HTTP/1.1\r\nHost: a.test\r\n\r\n', 400],
  'another expectation': [`${POST}${LENGTH}Expect: 200-ok\r\n\r\n${MAIL}`, 417],
  'a body longer than allowed': [`${POST}Content-Length: ${MAX_BODY_BYTES + 1}\r\n\r\n{`, 413],
}

describe('is refused, in words, and nothing behind it is read:', () => {
  for (const [name, [request, status]] of Object.entries(REFUSED)) {
    test(name, async () => {
      const { statuses, text } = await exchange(service.url, request)
      assert.deepEqual(statuses, [status], text)
      const body = JSON.parse(text.slice(text.indexOf('\r\n\r\n') + 4)) as Record<string, unknown>
      assert.equal(body.statusCode, status)
      assert.match(String(body.message), /^The /)
    })
  }

  test('and none of it was a mail', async () => {
    assert.deepEqual(await database.query('select from mail.outbox union all select from mail.intake'), [])
    assert.deepEqual(await database.query('select from mail.message'), [])
  })
})

/** What may look odd and means one thing only. */
const ANSWERED: Readonly<Record<string, readonly [request: string, statuses: readonly number[]]>> = {
  'a whole URL for a target': ['GET http://other.test/healthz HTTP/1.1\r\nHost: a.test\r\n\r\n', [200, 404]],
  'an upgrade to what is not spoken here': [
    `${WELL}Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n`,
    [200],
  ],
  'an upgrade to WebSocket': [`${WELL}Connection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n`, [200]],
  'a body where none is read': [`${WELL}Content-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`, [200, 404]],
  'a body without a key': [
    `POST /emails HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    [401, 404],
  ],
  'a request for the body to come': [`${POST}${LENGTH}Expect: 100-continue\r\n\r\n${MAIL}`, [100, 200, 404]],
  'a coding in capitals': [`${POST}Transfer-Encoding: CHUNKED\r\n\r\n${CHUNKED}`, [200, 404]],
  'a body that turns out longer than allowed': [
    `${POST}Transfer-Encoding: chunked\r\n\r\n${'10000\r\n'.concat(' '.repeat(65_536), '\r\n').repeat(17)}0\r\n\r\n`,
    [413, 404],
  ],
  'two keys': [
    `GET /emails HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer ${TEST_KEY}\r\nAuthorization: Bearer x\r\n\r\n`,
    [401, 404],
  ],
  'another method in a header': [`${WELL}X-HTTP-Method-Override: DELETE\r\n\r\n`, [200, 404]],
  'two slashes': ['GET //emails HTTP/1.1\r\nHost: a.test\r\n\r\n', [404, 404]],
  'percent signs that encode nothing': ['GET /%zz/%ff HTTP/1.1\r\nHost: a.test\r\n\r\n', [404, 404]],
  'TRACE, which would show a cookie': [
    'TRACE /healthz HTTP/1.1\r\nHost: a.test\r\nCookie: a=b\r\n\r\n',
    [405, 404],
  ],
  'several requests at once': [`${WELL}\r\n${POST}${LENGTH}\r\n${MAIL}${WELL}\r\n`, [200, 200, 200, 404]],
  'bytes that are no request behind one that is': [
    `${POST}${LENGTH}\r\n${MAIL}nonsense\r\n\r\n${WELL}\r\n`,
    [200, 400],
  ],
  'a body that is none behind a request that is': [
    `${WELL}\r\n${POST}Transfer-Encoding: chunked\r\n\r\nzz\r\n${WELL}\r\n`,
    [200, 400],
  ],
}

describe('is answered once for each request, in their order:', () => {
  for (const [name, [request, expected]] of Object.entries(ANSWERED)) {
    test(name, async () => {
      const { statuses, text } = await exchange(service.url, request)
      assert.deepEqual(statuses, expected, text)
    })
  }
})

test('senders that break off or send without end leave nothing open, no memory and no line of error', async () => {
  await Promise.all(Array.from({ length: 20 }, () => exchange(service.url, `${WELL}\r\n`)))
  const before = { files: openFiles(), residentKb: residentKb() }
  const chunk = `10000\r\n${' '.repeat(65_536)}\r\n`
  const breakOff = async (head: string, body: string) => {
    const { socket } = await openRaw(service.url)
    socket.write(`${head}Transfer-Encoding: chunked\r\n\r\n${body}`, () => socket.destroy())
    await once(socket, 'close')
  }
  const stranger = 'POST /webhooks/resend/x HTTP/1.1\r\nHost: a.test\r\n'
  const mail = 'POST /webhooks/dsn HTTP/1.1\r\nHost: a.test\r\n'
  const form = 'POST /login HTTP/1.1\r\nHost: a.test\r\n'
  const csv = POST.replace('/emails', '/suppressions/import').replace('application/json', 'text/csv')
  for (const head of [stranger, mail, form, csv, POST, POST.replace('/emails', '/emails/bulk')]) {
    await Promise.all(Array.from({ length: 10 }, () => breakOff(head, chunk.repeat(2))))
  }
  const endless = await Promise.all(
    Array.from({ length: 10 }, () =>
      exchange(service.url, `${POST}Transfer-Encoding: chunked\r\n\r\n${chunk.repeat(40)}`),
    ),
  )
  for (const { statuses } of endless) assert.ok(statuses[0] === 413 || statuses.length === 0, `${statuses}`)
  assert.equal((await service.request('/healthz')).status, 200)
  await eventually('connections are closed', async () => openFiles() <= before.files + 3)
  assert.ok(
    residentKb() < before.residentKb + 150 * 1_024,
    `${before.residentKb} KB, then ${residentKb()} KB`,
  )
  assert.doesNotMatch(service.output(), /request failed|a page failed|Error:|aborted/)
})

function openFiles(): number {
  return readdirSync(`/proc/${service.pid}/fd`).length
}

function residentKb(): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${service.pid}/status`, 'utf8'))?.[1])
}

test('senders that are slow on purpose are cut off, and others are answered meanwhile', async (t) => {
  const app = new Hono()
  app.onError((_error, c) => c.text('broken off', 400))
  app.get('/', (c) => c.text('well'))
  app.post('/', async (c) => c.text(String((await c.req.arrayBuffer()).byteLength)))
  const server = await listen(
    app,
    { host: '127.0.0.1', port: 0 },
    { headMs: 300, requestMs: 1_000, lookEveryMs: 50 },
  )
  t.after(() => server.close(AbortSignal.abort()))
  const slow = await Promise.all(
    [
      '',
      'GET / HTTP/1.1\r\n',
      'GET / HTTP/1.1\r\nHost: a\r\nX-',
      'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx',
      'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx',
    ].flatMap((start) =>
      Array.from({ length: 40 }, async () => {
        const { socket, received } = await openRaw(server.url)
        const closed = once(socket, 'close')
        socket.write(start)
        return { closed, received, start }
      }),
    ),
  )
  // One more byte each time, long before its time is up.
  const { socket: dripping } = await openRaw(server.url)
  const dripped = once(dripping, 'close')
  dripping.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n')
  const timer = setInterval(() => dripping.write('x'), 50)
  t.after(() => clearInterval(timer))
  assert.equal(await (await fetch(server.url)).text(), 'well')
  for (const { closed, received, start } of slow) {
    await closed
    if (start.startsWith('G')) assert.match(received(), /^HTTP\/1\.1 408 /)
  }
  await dripped
  assert.equal(await (await fetch(server.url)).text(), 'well')
})
