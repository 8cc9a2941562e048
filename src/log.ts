import { type Logger, pino } from 'pino'
import { LogOutput } from './log-output.ts'

export type Log = Logger

const STANDARD_OUTPUT = 1

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
 * What JSON leaves as it is and readers of a log do not: line ends of Unicode, at which some software cuts lines; C1
 * controls, which terminals obey; and what turns the direction of text around.
 */
const TREACHEROUS = /[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g

/** The same JSON: these can only stand within its strings. */
function escapeTreacherous(line: string): string {
  return line.replace(
    TREACHEROUS,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/**
 * One line an event that matters, as JSON on standard output: ids and codes, never addresses, subjects,
 * bodies or keys. Callers pass fields one by one; no request or message object is ever logged.
 */
export function createLog(level: string, write?: (line: string) => void): Log {
  const log: Log = pino(
    {
      level,
      base: { pid: process.pid },
      serializers: { error: describeError },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: (line) => output(escapeTreacherous(line)) },
  )
  const output = write ?? toStandardOutput(log)
  return log
}

/** Opened by the first line: a log that says nothing leaves the file as it is. */
function toStandardOutput(log: Log): (line: string) => void {
  let output: LogOutput | undefined
  return (line) => {
    output ??= new LogOutput(STANDARD_OUTPUT, (lines) =>
      log.warn({ lines }, 'lines of this log are missing: nobody read it, or there was no room for it'),
    )
    output.write(line)
  }
}

/** What libraries print, such as that a client went away, becomes lines of the log: whoever reads it expects nothing else. */
export function logConsole(log: Log): void {
  const told = (given: readonly unknown[]) =>
    given.find((each) => each instanceof Error) ?? new Error(given.map(String).join(' ').slice(0, 1_000))
  console.log = (...given) => log.debug({ error: told(given) }, 'printed by a library')
  console.info = console.log
  console.debug = console.log
  console.warn = (...given) => log.warn({ error: told(given) }, 'printed by a library')
  console.error = console.warn
}
