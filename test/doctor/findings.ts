import assert from 'node:assert/strict'
import { escapeIdentifier } from 'pg'
import type { Finding, Verdict } from '../../src/doctor/finding.ts'
import { connect } from '../../src/doctor/reachability.ts'
import { createReader, type Reader } from '../../src/doctor/reader.ts'
import type { TestDatabase } from '../support/database.ts'

/** A reader as doctor has one; closed before the database is dropped. */
export async function openReader(database: Pick<TestDatabase, 'url' | 'beforeDrop'>): Promise<Reader> {
  const client = await connect(database.url)
  database.beforeDrop(() => client.end())
  return createReader(client)
}

/** A connection takes what its database says from the moment it is made. */
export async function setInDatabase(database: TestDatabase, setting: string, value: string): Promise<void> {
  const name = escapeIdentifier(new URL(database.url).pathname.slice(1))
  await database.query(`alter database ${name} set ${setting} = ${value}`)
}

/** Fails unless exactly one finding of this name has this verdict, says this, and advises where it must. */
export function assertFinding(
  findings: Finding | readonly Finding[],
  name: string,
  verdict: Verdict,
  says: RegExp,
): Finding {
  const all = [findings].flat()
  const [found, ...others] = all.filter(
    (each) => each.name === name && each.verdict === verdict && says.test(each.found),
  )
  assert.ok(found, `no ${verdict} of "${name}" that says ${says} among ${JSON.stringify(all, null, 1)}`)
  assert.deepEqual(others, [])
  const needsAdvice = verdict === 'warning' || verdict === 'problem'
  assert.equal(found.advice !== undefined, needsAdvice, JSON.stringify(found))
  return found
}

export function assertAllOk(findings: Finding | readonly Finding[]): void {
  assert.deepEqual(
    [findings].flat().filter(({ verdict }) => verdict !== 'ok'),
    [],
  )
}
