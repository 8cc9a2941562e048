/** From sysexits.h: how the command was called. */
export const EXIT_USAGE = 64
/** From sysexits.h: the settings, or the database they name, cannot be used as they are. */
export const EXIT_CONFIG = 78
/** What was asked could not be done, or a service stopped without settling everything. */
export const EXIT_FAILURE = 1

/** A command that was called wrongly; `usage` is what would be right. */
export class UsageError extends Error {
  constructor(message: string, usage: string) {
    super(`${message}\n\n${usage}`)
    this.name = 'UsageError'
  }
}
