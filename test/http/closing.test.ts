import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { type TestContext, test } from 'node:test'
import { Hono } from 'hono'
import { listen } from '../../src/http/server.ts'
import { eventually } from '../support/eventually.ts'

/** How a server ends while clients keep their connections, as all of them do. */

/** Nothing here takes so long unless a connection is waited for that ends by itself, after a minute. */
const LIMIT_MS = 30_000
/** More than the buffers of two sockets hold. */
const LARGE_BYTES = 20_000_000

async function open(t: TestContext) {
  const asked = Promise.withResolvers<void>()
  const gate = Promise.withResolvers<void>()
  const app = new Hono()
  app.get('/quick', (c) => c.text('well'))
  let slow = 0
  app.get('/slow', async (c) => {
    slow += 1
    asked.resolve()
    await gate.promise
    return c.text('well')
  })
  app.get('/large', (c) => c.body(Buffer.alloc(LARGE_BYTES)))
  app.get('/begun', () => {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>()
    const writer = writable.getWriter()
    const send = async () => {
      await writer.write(Buffer.from('we'))
      await gate.promise
      await writer.write(Buffer.from('ll'))
      await writer.close()
    }
    send().catch(() => undefined)
    return new Response(readable)
  })
  const server = await listen(app, { host: '127.0.0.1', port: 0 })
  t.after(() => server.close(AbortSignal.abort()))
  const agent = new Agent({ keepAlive: true })
  t.after(() => agent.destroy())
  let isCutOff = false
  const end = () => {
    const limit = new AbortController()
    const timer = setTimeout(() => {
      isCutOff = true
      limit.abort()
    }, LIMIT_MS)
    return server.close(limit.signal).finally(() => clearTimeout(timer))
  }
  return {
    url: server.url,
    asked: asked.promise,
    slow: () => slow,
    answerNow: () => gate.resolve(),
    end,
    isCutOff: () => isCutOff,
    ask: async (path: string): Promise<IncomingMessage> => {
      const [answer] = (await once(get(`${server.url}${path}`, { agent }), 'response')) as [IncomingMessage]
      return answer
    },
  }
}

async function textOf(answer: IncomingMessage): Promise<string> {
  return Buffer.concat(await answer.toArray()).toString()
}

test('connections at rest end at once, used or not', async (t) => {
  const server = await open(t)
  assert.equal(await textOf(await server.ask('/quick')), 'well')
  const { port, hostname } = new URL(server.url)
  const unused = connect(Number(port), hostname)
  await once(unused, 'connect')
  // So that the server knows of it.
  assert.equal(await textOf(await server.ask('/quick')), 'well')
  const hungUp = once(unused.resume(), 'close')
  await server.end()
  await hungUp
  assert.equal(server.isCutOff(), false)
})

test('one that waits for an answer ends with it, and the answer says so', async (t) => {
  const server = await open(t)
  const asking = server.ask('/slow')
  await server.asked
  const ended = server.end()
  server.answerNow()
  const answer = await asking
  assert.equal(answer.headers.connection, 'close')
  assert.equal(await textOf(answer), 'well')
  await ended
  assert.equal(server.isCutOff(), false)
})

test('one whose answer had begun ends after it', async (t) => {
  const server = await open(t)
  const answer = await server.ask('/begun')
  assert.equal(answer.headers.connection, 'keep-alive')
  const ended = server.end()
  server.answerNow()
  assert.equal(await textOf(answer), 'well')
  await ended
  assert.equal(server.isCutOff(), false)
})

test('one whose reader is slow gets all of its answer, whatever ends beside it', async (t) => {
  const server = await open(t)
  const large = await server.ask('/large')
  const asking = server.ask('/slow')
  await server.asked
  const ended = server.end()
  server.answerNow()
  assert.equal(await textOf(await asking), 'well')
  assert.equal((await textOf(large)).length, LARGE_BYTES)
  await ended
  assert.equal(server.isCutOff(), false)
})

test('the first request of a connection may come to its end', async (t) => {
  const server = await open(t)
  const { port, hostname } = new URL(server.url)
  const begun = connect(Number(port), hostname)
  begun.write('GET /quick HTTP/1.1\r\n')
  // So that the server has read it.
  await textOf(await server.ask('/quick'))
  const ended = server.end()
  begun.write('Host: here\r\n\r\n')
  assert.match(Buffer.concat(await begun.toArray()).toString(), /connection: close.*well$/is)
  await ended
  assert.equal(server.isCutOff(), false)
})

test('a connection on which nothing more comes does not hold the end up', async (t) => {
  const server = await open(t)
  const { port, hostname } = new URL(server.url)
  const begun = connect(Number(port), hostname)
  begun.write('GET /quick HTTP/1.1\r\n')
  await textOf(await server.ask('/quick'))
  const hungUp = once(begun.resume(), 'close')
  await server.end()
  await hungUp
  assert.equal(server.isCutOff(), false)
})

test('of requests that were sent at once each gets its answer', async (t) => {
  const server = await open(t)
  const { port, hostname } = new URL(server.url)
  const socket = connect(Number(port), hostname)
  const request = (path: string) => `GET ${path} HTTP/1.1\r\nHost: here\r\n\r\n`
  socket.write(`${request('/slow')}${request('/slow')}`)
  await eventually('two were read', async () => server.slow() === 2)
  const ended = server.end()
  socket.write(request('/slow'))
  await eventually('another was read', async () => server.slow() === 3)
  server.answerNow()
  const answers = Buffer.concat(await socket.toArray()).toString()
  assert.equal(answers.match(/HTTP\/1\.1 200/g)?.length, 3, answers)
  assert.equal(answers.match(/connection: close/gi)?.length, 1)
  await ended
  assert.equal(server.isCutOff(), false)
})
