import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { before, describe, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { anyRequests } from '../fuzz/routes-target.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { orderMail, startTestService, TEST_KEY, type TestService } from '../support/service.ts'

let database: TestDatabase
let service: TestService

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SLUICE_ROLES: 'api' })
})

type ErrorBody = { statusCode: number; name: string; message: string }

async function errorOf(response: Response, status: number): Promise<string> {
  const body = (await response.json()) as ErrorBody
  assert.deepEqual([response.status, body.statusCode], [status, status], body.message)
  assert.deepEqual(Object.keys(body).sort(), ['message', 'name', 'statusCode'])
  return body.message
}

const MAIL = JSON.stringify(orderMail())
const BULK = `{"message":{"from":"a@example.com","subject":"x","text":"x"},"recipients":[{"to":"b@example.com"}]}`
/** Every way in for a body. */
const PATHS = ['/emails', '/emails/batch', '/emails/bulk', '/templates', '/dead-letters/retry']

describe('at every door', () => {
  for (const path of PATHS) {
    test(`${path}: each kind of bad body has its own answer`, async () => {
      const post = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = {}) =>
        fetch(new URL(path, service.url), {
          method: 'POST',
          body,
          headers: { Authorization: `Bearer ${TEST_KEY}`, 'Content-Type': 'application/json', ...headers },
        })
      const good = path === '/emails/bulk' ? BULK : MAIL
      assert.match(await errorOf(await post(''), 400), /is empty/)
      assert.match(await errorOf(await post(`\ufeff${good}`), 400), /byte-order mark/)
      assert.match(await errorOf(await post(good.slice(0, -1)), 400), /not valid JSON/)
      assert.match(await errorOf(await post(`${good}${good}`), 400), /not valid JSON/)
      assert.match(await errorOf(await post(Buffer.from('{"message":"\xff"}', 'latin1')), 400), /valid UTF-8/)
      assert.match(await errorOf(await post(`{"message":{},"message":{}}`), 400), /`message` twice/)
      assert.match(
        await errorOf(await post(`{"message":${'['.repeat(70)}${']'.repeat(70)}}`), 400),
        /64 levels/,
      )
      assert.match(await errorOf(await post(`{"message":{"__proto__":{}}}`), 400), /`__proto__`/)
      const form = await post('a=b', { 'Content-Type': 'application/x-www-form-urlencoded' })
      assert.match(await errorOf(form, 400), /Content-Type: application\/json/)
      const bomb = gzipSync(Buffer.alloc(1_000_000, 0x20))
      const zipped = await post(new Uint8Array(bomb), { 'Content-Encoding': 'gzip' })
      assert.match(await errorOf(zipped, 415), /must not be compressed/)
    })
  }

  test('a method that a known path does not take is 405, and says which it takes', async () => {
    for (const [method, path, allowed] of [
      ['DELETE', '/emails', 'GET, HEAD, POST'],
      ['PUT', '/emails/batch', 'GET, HEAD, PATCH, POST'],
      ['POST', '/streams', 'GET, HEAD'],
      ['GET', '/streams/marketing', 'PUT'],
      ['OPTIONS', '/dead-letters/summary', 'GET, HEAD'],
      ['POST', '/healthz', 'GET, HEAD'],
    ] as const) {
      const response = await service.request(path, { method })
      assert.match(await errorOf(response, 405), new RegExp(`does not take ${method}`))
      assert.equal(response.headers.get('Allow'), allowed, path)
    }
    await errorOf(await service.request('/emails/x/y/z', { method: 'DELETE' }), 404)
  })

  test('headers without end are 431, and what is no HTTP is 400', async () => {
    for (const [request, status] of [
      [`GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: ${'x'.repeat(100_000)}\r\n\r\n`, 431],
      ['not a request\r\n\r\n', 400],
    ] as const) {
      const { hostname, port } = new URL(service.url ?? '')
      const socket = connect(Number(port), hostname)
      await once(socket, 'connect')
      socket.on('error', () => undefined)
      socket.write(request)
      const answer = await text(socket)
      assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `))
      const body = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))) as ErrorBody
      assert.deepEqual([body.statusCode, body.name], [status, 'validation_error'])
    }
  })
})

test('whatever is thrown at any route, the answer is never a fault of ours', async (t) => {
  const property = await anyRequests(service.url ?? '', t)
  await fc.assert(property, {
    numRuns: 1_500,
    interruptAfterTimeLimit: 15_000,
    markInterruptAsFailure: false,
  })
})
