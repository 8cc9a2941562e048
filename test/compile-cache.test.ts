import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const MAIN = fileURLToPath(new URL('../src/main.js', import.meta.url))

/** Whether Node has loaded amaro, which it takes types out with. */
const TOLD_AT_THE_END = `process.on('exit', () => process.stderr.write(String(process.moduleLoadList.some((name) => name.includes('deps/amaro')))))`

async function readsTypes(environment: NodeJS.ProcessEnv): Promise<string> {
  const options = ['--import', `data:text/javascript,${TOLD_AT_THE_END}`]
  const { stderr } = await promisify(execFile)(process.execPath, [...options, MAIN, '--help'], {
    env: { PATH: process.env.PATH, ...environment },
  })
  return stderr
}

test('what was compiled once runs without what Node reads TypeScript with', async () => {
  await readsTypes({})
  assert.equal(await readsTypes({}), 'false')
  assert.equal(
    await readsTypes({ NODE_DISABLE_COMPILE_CACHE: '1' }),
    'true',
    'and without a cache it is seen',
  )
})
