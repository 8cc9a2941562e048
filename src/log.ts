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
    // A SQLSTATE of class 22 or 23 carries the offending value in its message.
    message: isFromDatabase && /^2[23]/.test(String(code)) ? 'the database refused a value' : error.message,
    stack: error.stack?.split('\n').slice(1, 6).join('\n'),
    cause: error.cause === undefined ? undefined : describeError(error.cause),
  }
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
