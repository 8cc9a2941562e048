import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { crashPointsPage } from '../../scripts/failure/crash-points/page.ts'
import { testShortForm } from '../support/failure-run.ts'

testShortForm('crash-points')

test('docs/crash-points.md says what the failure run expects (npm run crash-points:write)', async () => {
  const page = await readFile(new URL('../../docs/crash-points.md', import.meta.url), 'utf8')
  assert.equal(page, crashPointsPage())
})
