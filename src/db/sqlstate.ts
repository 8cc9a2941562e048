/** SQLSTATEs we branch on (PostgreSQL manual, Appendix A). */
export const SQLSTATE = {
  uniqueViolation: '23505',
  insufficientPrivilege: '42501',
  duplicateObject: '42710',
  undefinedObject: '42704',
  lockNotAvailable: '55P03',
  deadlockDetected: '40P01',
} as const

export function sqlState(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : undefined
}

/** Classes that speak of the values given, or of their size. */
const VALUE_FAULTS = new Set(['21', '22', '23', '54'])

/**
 * True when it is the work itself that fails: the database refuses a value, or our own code cannot deal
 * with what it was given. Whoever holds such work must do something else with it. A right or a table that
 * is missing is not among them: somebody will repair that, and the work waits.
 */
export function isLastingFault(error: unknown): boolean {
  const state = sqlState(error)
  if (state !== undefined) return VALUE_FAULTS.has(state.slice(0, 2))
  return error instanceof TypeError || error instanceof RangeError || error instanceof SyntaxError
}
