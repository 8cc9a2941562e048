import { destination, type Logger, pino } from 'pino'

export type Log = Logger

/** Driver errors quote values in `detail`, `where` and `parameters`: only codes and places are kept. */
function describeError(error: unknown): object {
  if (!(error instanceof Error)) return { type: typeof error }
  const { code, schema, table, constraint } = error as Error & Record<string, unknown>
  const isFromDatabase = typeof (error as { severity?: unknown }).severity === 'string'
  return {
    type: error.name,
    code,
    ...(isFromDatabase ? { schema, table, constraint } : {}),
    message: describeMessage(error, isFromDatabase, code),
    stack: error.stack?.split('\n').slice(1, 6).join('\n'),
    cause: error.cause === undefined ? undefined : describeError(error.cause),
  }
}

/** Some messages carry the offending text: those of a SQLSTATE of class 22 or 23, and of a parser. */
function describeMessage(error: Error, isFromDatabase: boolean, code: unknown): string {
  if (isFromDatabase && /^2[23]/.test(String(code))) return 'the database refused a value'
  return error instanceof SyntaxError ? 'a text could not be parsed' : error.message
}

/**
 * One line an event that matters, as JSON on standard output: ids and codes, never addresses, subjects,
 * bodies or keys. Callers pass fields one by one; no request or message object is ever logged.
 */
export function createLog(level: string): Log {
  return pino(
    {
      level,
      base: { pid: process.pid },
      serializers: { error: describeError },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    // Written at once: the last lines before a crash are the ones that are needed.
    destination({ fd: 1, sync: true }),
  )
}
