import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { guaranteesText } from '../scripts/failure/guarantees.ts'
import { DOCUMENT, readRecorded } from '../scripts/failure/record.ts'
import { RUNS } from '../scripts/failure/runs.ts'

const document = readFileSync(DOCUMENT, 'utf8')
const recorded = readRecorded()

test('each failure run is named beside the promise that it proves', () => {
  const [promises = ''] = document.split('## The figures')
  assert.deepEqual(
    RUNS.map(({ name }) => name).filter((name) => !promises.includes(`\`${name}\``)),
    [],
  )
})

test('the figures in the document are those that were recorded, of every run, and no promise was broken', () => {
  assert.equal(document, guaranteesText(document, recorded))
  assert.deepEqual(
    recorded.map(({ row }) => row.run),
    RUNS.map(({ name }) => name),
  )
  for (const { row } of recorded) {
    assert.deepEqual(row.broken, [], row.run)
    assert.equal(row.unexpected, 0, row.run)
  }
})
