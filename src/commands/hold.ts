import type { Config } from '../config.ts'
import { openClient } from '../db/one-client.ts'
import { createLog } from '../log.ts'
import { EXIT_FAILURE, UsageError } from './exit.ts'
import { withDatabase } from './with-database.ts'

export const HOLD_USAGE = `  npm start -- hold REASON         send nothing until it is released; before the first start on a restored database
  npm start -- release WAY         send again: send, set_aside or discard what waited (docs/operating.md)
`

/** `hold`: as mail.hold. */
export async function runHold(config: Config, words: readonly string[]): Promise<number> {
  if (words.length === 0) throw new UsageError('"hold" needs a reason', HOLD_USAGE)
  return ask(config, 'select mail.hold($1) as said', words.join(' '))
}

/** `release`: as mail.release. */
export async function runRelease(config: Config, [way, ...extra]: readonly string[]): Promise<number> {
  if (way === undefined || extra.length > 0) {
    throw new UsageError('"release" needs one of send, set_aside and discard', HOLD_USAGE)
  }
  return ask(config, 'select mail.release($1) as said', way)
}

async function ask(config: Config, statement: string, word: string): Promise<number> {
  return withDatabase(config, createLog(config.logLevel), async ({ sessionUrl }) => {
    const client = await openClient(sessionUrl)
    try {
      const { rows } = await client.query<{ said: string }>(statement, [word])
      process.stdout.write(`${rows[0]?.said}\n`)
      return 0
    } catch (error) {
      if (!(error instanceof Error)) throw error
      process.stderr.write(`${error.message}\n`)
      return EXIT_FAILURE
    } finally {
      await client.end()
    }
  })
}
