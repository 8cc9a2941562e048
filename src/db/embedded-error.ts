/** What can go wrong with the embedded server, and whether the same start may succeed a moment later. */
const EMBEDDED_ERRORS = {
  /** There are no Postgres binaries for this system, or they do not run here. */
  platform_unsupported: { retryable: false },
  /** The binaries exist but cannot be used as they are installed. */
  binaries_unusable: { retryable: false },
  /** This process is root, Postgres must not be, and there is no other user to run it as. */
  account_unavailable: { retryable: false },
  /** The user Postgres runs as cannot get to a directory it needs. */
  directory_unreachable: { retryable: false },
  /** The cluster is there, but not ours to start: other version, other owner, other password. */
  cluster_unusable: { retryable: false },
  /** The server process ended before it accepted a connection. */
  ended_before_ready: { retryable: true },
  /** The server is alive but did not accept a connection in time; it goes on trying by itself. */
  not_ready_in_time: { retryable: true },
} as const

export type EmbeddedErrorCode = keyof typeof EMBEDDED_ERRORS

/** Ends the start of the embedded server. `message` says what happened, to what, and what to do next. */
export class EmbeddedPostgresError extends Error {
  readonly code: EmbeddedErrorCode
  readonly retryable: boolean

  constructor(code: EmbeddedErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options)
    this.name = 'EmbeddedPostgresError'
    this.code = code
    this.retryable = EMBEDDED_ERRORS[code].retryable
  }
}

/** What a child process said before it ended with an error; empty when nothing. */
export function saidBy(error: unknown): string {
  return error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : ''
}

/** The `code` of a Node or Postgres error (`ENOENT`, `57P03`), undefined when it has none. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}
