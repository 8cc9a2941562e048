import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { readMigrations } from '../db/migrate.ts'
import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { listed } from './words.ts'

/** `none`: there is nothing of Sluice to look at. `other`: parts of it are not as this version knows them. */
export type SchemaState = 'current' | 'other' | 'none'

const NAME = 'migrations'

/** Whether the database has had exactly the migrations of this version, as they are now. */
export async function checkMigrations({
  ask,
}: Reader): Promise<{ readonly state: SchemaState; readonly finding: Finding }> {
  const [there] = await ask<{ found: boolean }>(
    "/* doctor.has_migrations */ select to_regclass('mail.migration') is not null as found",
  )
  if (there?.found !== true) {
    const advice = 'npm start does it, or npm start -- migrate as a user that may create schemas'
    return { state: 'none', finding: problem(NAME, 'this database has not been migrated', advice) }
  }
  const applied = await ask<{ version: number; name: string; digest: string | null }>(
    '/* doctor.migrations */ select version, name, digest from mail.migration order by version',
  )
  const known = await readMigrations()
  const pending = known.filter(({ version }) => !applied.some((each) => each.version === version))
  const foreign = applied.filter(({ version }) => !known.some((each) => each.version === version))
  if (foreign.length > 0) {
    const found = `the database is newer than this version: it has ${listed(foreign.map(({ name }) => name))}`
    const advice = 'run the version of Sluice that made it, or a later one'
    return { state: 'other', finding: problem(NAME, found, advice) }
  }
  if (pending.length > 0) {
    const found = `the database lacks ${listed(pending.map(({ name }) => name))}`
    return {
      state: 'other',
      finding: problem(NAME, found, 'npm start -- migrate, as a user that may change the schema'),
    }
  }
  const changed = []
  for (const { version, name, file } of known) {
    const digest = createHash('sha256')
      .update(await readFile(file))
      .digest('hex')
    const had = applied.find((each) => each.version === version)
    if (had?.name !== name || had.digest !== digest) changed.push(name)
  }
  if (changed.length > 0) {
    const found = `changed since this database had them: ${listed(changed)}`
    const advice = 'use the files of a release: a migration is never changed once it is released'
    return { state: 'other', finding: warning(NAME, found, advice) }
  }
  return { state: 'current', finding: ok(NAME, `all ${known.length}, the latest ${known.at(-1)?.name}`) }
}
