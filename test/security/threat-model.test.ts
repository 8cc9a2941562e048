/** SECURITY.md: what it names is there, and what is there to show a claim is named. */
import assert from 'node:assert/strict'
import { access, readdir, readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { SECURITY_HEADERS } from '../../src/http/security-headers.ts'

const ROOT = new URL('../../', import.meta.url)

test('every test and document that SECURITY.md names exists, and every security test is named', async () => {
  const text = await readFile(new URL('SECURITY.md', ROOT), 'utf8')
  const tests = [...new Set([...text.matchAll(/`(test\/[\w/.-]+\.test\.ts)`/g)].map(([, file = '']) => file))]
  const documents = [...new Set([...text.matchAll(/\]\((docs\/[\w/.-]+)\)/g)].map(([, file = '']) => file))]
  assert.ok(tests.length > 20 && documents.length >= 8)
  for (const file of [...tests, ...documents]) await access(new URL(file, ROOT))
  for (const file of await readdir(new URL('.', import.meta.url))) {
    const isOther = !file.endsWith('.test.ts') || file === 'threat-model.test.ts'
    assert.ok(
      isOther || tests.includes(`test/security/${file}`),
      `${file} shows something that nobody is told of`,
    )
  }
})

test('each claim about the way in or out names a test, and headers are listed as they are sent', async () => {
  const text = await readFile(new URL('SECURITY.md', ROOT), 'utf8')
  const boundaries = text.slice(text.indexOf('## Boundaries'), text.indexOf('## What somebody gets'))
  const claims = boundaries.split(/^- /m).slice(1)
  assert.ok(claims.length > 15)
  // Of the first claim about secrets the second one names the test.
  const bare = claims.filter(
    (claim) => !/`test\//.test(claim) && !claim.startsWith('None is in the database'),
  )
  assert.deepEqual(bare, [])
  for (const [name, value] of Object.entries(SECURITY_HEADERS)) {
    assert.ok(text.replaceAll(/\s+/g, ' ').includes(`\`${name}: ${value}\``), name)
  }
  assert.doesNotMatch(text, /[\w.+-]+@[\w-]+\.\w+/, 'no address is made up')
})
