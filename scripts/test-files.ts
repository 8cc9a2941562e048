import { existsSync, readFileSync } from 'node:fs'
import { dirname, relative, resolve, sep } from 'node:path'

/** What a test reaches a Postgres through: the suite's server, or one of its own. Nothing else knows where either is. */
const DOORS = ['test/support/database.ts', 'test/support/failure-run.ts', 'src/db/embedded.ts']
const TESTS = 'test'

/**
 * Those of the files that can talk to a Postgres: they import a door, or something under `test/` that does. What the
 * service's own sources import does not count, since without a server they have nothing to connect to.
 */
export function filesThatReachPostgres(files: readonly string[]): string[] {
  return files.filter((file) => reaches(resolve(file), new Set()))
}

function reaches(file: string, seen: Set<string>): boolean {
  const path = relative('.', file)
  if (DOORS.includes(path)) return true
  if (seen.has(file) || !path.startsWith(TESTS + sep)) return false
  seen.add(file)
  return importsOf(file).some((imported) => reaches(imported, seen))
}

/**
 * Every quoted relative path that is a file counts, so that a dynamic import, a type, or a program that is started by
 * its path does as well: a file too many costs a moment, one too few a proof.
 */
function importsOf(file: string): string[] {
  const text = readFileSync(file, 'utf8')
  return [...text.matchAll(/['"`](\.{1,2}\/[^'"`\n]+\.ts)['"`]/g)]
    .map(([, specifier = '']) => resolve(dirname(file), specifier))
    .filter((path) => existsSync(path))
}
