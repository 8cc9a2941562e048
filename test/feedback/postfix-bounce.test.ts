import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer, text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const SCRIPT = fileURLToPath(new URL('../../scripts/postfix-bounce', import.meta.url))
const hasCurl = spawnSync('curl', ['--version']).status === 0
const options = hasCurl ? {} : { skip: 'curl is not installed' }

async function run(
  args: readonly string[],
  mail: string | Buffer = '',
): Promise<{ code: number; errors: string; output: string }> {
  const child = spawn(SCRIPT, args, { stdio: 'pipe' })
  child.stdin.on('error', (error: NodeJS.ErrnoException) => assert.equal(error.code, 'EPIPE'))
  child.stdin.end(mail)
  const [[code], errors, output] = await Promise.all([
    once(child, 'exit'),
    text(child.stderr),
    text(child.stdout),
  ])
  return { code: code as number, errors, output }
}

async function configFor(t: TestContext, url: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'sluice-pipe-'))
  t.after(() => rm(directory, { recursive: true }))
  const path = join(directory, 'config')
  await writeFile(path, `url = "${url}"\nuser = "postfix:secret"\n`)
  return path
}

async function listen(t: TestContext, status: () => number) {
  const requests: { request: IncomingMessage; body: Buffer }[] = []
  const server = createServer(async (request, response) => {
    requests.push({ request, body: await buffer(request) })
    response.writeHead(status()).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return { requests, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/webhooks/dsn/postfix` }
}

test('the mail is handed over as it is, with the credentials of the file', options, async (t) => {
  const { requests, url } = await listen(t, () => 200)
  const mail = Buffer.from([...Buffer.from('Subject: x\r\n\r\n'), 0, 0xff, 10, 0x40])
  assert.deepEqual(await run([await configFor(t, url)], mail), { code: 0, errors: '', output: '' })
  const [{ request, body } = {}] = requests
  assert.deepEqual(
    [request?.method, request?.url, request?.headers['content-type'], request?.headers.authorization],
    [
      'POST',
      '/webhooks/dsn/postfix',
      'message/rfc822',
      `Basic ${Buffer.from('postfix:secret').toString('base64')}`,
    ],
  )
  assert.deepEqual(body, mail)
})

test('of a large one the start is sent, and all of it is taken from Postfix', options, async (t) => {
  const { requests, url } = await listen(t, () => 200)
  assert.equal((await run([await configFor(t, url)], Buffer.alloc(5_000_000, 'x'))).code, 0)
  assert.equal(requests[0]?.body.length, 262_144)
})

test('Postfix is to come again after every answer but 200, and when there is none', options, async (t) => {
  let status = 0
  const { url } = await listen(t, () => status)
  const config = await configFor(t, url)
  for (status of [204, 302, 401, 404, 413, 500, 503]) {
    const { code, errors } = await run([config], 'x')
    assert.deepEqual([code, errors], [75, `postfix-bounce: Sluice answered ${status}\n`])
  }
  const nobody = await run([await configFor(t, 'http://127.0.0.1:1/webhooks/dsn')], 'x')
  assert.equal(nobody.code, 75)
  assert.match(nobody.errors, /curl/)
  assert.equal((await run(['/nowhere'], 'x')).code, 75)
})

test('a wrong call says how it is called', async () => {
  for (const args of [[], ['--version']]) assert.equal((await run(args)).code, 64)
  const { code, output } = await run(['--help'])
  assert.equal(code, 0)
  assert.match(output, /^Usage: postfix-bounce CONFIG/)
})
