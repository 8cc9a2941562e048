import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { type TestContext, test } from 'node:test'
import { Client } from 'pg'
import { connectionSettings } from '../../src/db/connection-settings.ts'
import { migrate } from '../../src/db/migrate.ts'
import { DatabaseTlsError } from '../../src/db/verified-tls.ts'

const LOG = { info: () => undefined, warn: () => undefined }
/** RFC 5234 of the protocol: length 8, then the number that asks for TLS. */
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

/** How the driver would connect, with all it makes of the URL and of our settings. */
function sslOf(url: string): unknown {
  return new Client(connectionSettings(url, undefined)).ssl
}

test('what leaves this machine is encrypted and verified, unless the URL says otherwise', () => {
  for (const url of [
    'postgresql://app@db.example.com/mail',
    'postgresql://app@10.0.0.5/mail',
    'postgresql://app@[2001:db8::5]/mail',
    'postgresql://app@localhost.example.com/mail',
    'postgresql://app@/mail?host=db.example.com',
    'postgresql://app@localhost/mail?host=db.example.com',
    'postgresql://app@db.example.com/mail?options=-c%20search_path%3Dx',
  ]) {
    assert.equal(sslOf(url), true, url)
  }
  for (const mode of ['verify-full', 'require']) {
    assert.deepEqual(sslOf(`postgresql://app@db.example.com/mail?sslmode=${mode}`), {}, mode)
  }
  assert.equal(sslOf('postgresql://app@db.example.com/mail?sslmode=disable'), false)
  assert.deepEqual(sslOf('postgresql://app@db.example.com/mail?sslmode=no-verify'), {
    rejectUnauthorized: false,
  })
  for (const url of [
    'postgresql://app@localhost/mail',
    'postgresql://app@127.0.0.1:5433/mail',
    'postgresql://app@[::1]/mail',
    'postgresql:///mail?host=/var/run/postgresql',
    'postgresql:///mail',
  ]) {
    assert.equal(sslOf(url), false, url)
  }
})

/** A server at an address of this machine that others can reach; what it hears is kept. */
async function listenOutside(t: TestContext, answer: (socket: Socket) => void) {
  const address = Object.values(networkInterfaces())
    .flat()
    .find((each) => each !== undefined && !each.internal && each.family === 'IPv4')?.address
  if (address === undefined) return undefined
  const heard: Buffer[] = []
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (bytes) => heard.push(bytes))
    socket.once('data', () => answer(socket))
  })
  await once(server.listen(0, address), 'listening')
  t.after(() => server.close())
  const url = `postgresql://app:secret@${address}:${(server.address() as AddressInfo).port}/mail`
  return { url, heard }
}

test('a server elsewhere that speaks no TLS hears nothing but the question for it, and the error says what to write', async (t) => {
  const server = await listenOutside(t, (socket) => socket.write('N'))
  if (server === undefined) return t.skip('this machine has no address of its own')
  await assert.rejects(migrate({ url: server.url, log: LOG as never }), (error) => {
    assert.ok(error instanceof DatabaseTlsError, String(error))
    assert.match(error.message, /sslrootcert=[\s\S]*sslmode=disable/)
    assert.doesNotMatch(error.message, /secret/)
    return true
  })
  assert.deepEqual(Buffer.concat(server.heard), SSL_REQUEST)
})

test('a refusal that is not about TLS is told as what it is', async () => {
  const free = createServer()
  await once(free.listen(0, '127.0.0.1'), 'listening')
  const { port } = free.address() as AddressInfo
  free.close()
  await once(free, 'close')
  await assert.rejects(migrate({ url: `postgresql://app@127.0.0.1:${port}/x`, log: LOG as never }), {
    code: 'database_unreachable',
    message: /cannot be reached: connect ECONNREFUSED/,
  })
})
