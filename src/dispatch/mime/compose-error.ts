export type ComposeFault =
  | 'unsafe_header'
  | 'reserved_header'
  | 'bad_address'
  | 'bad_message_id'
  | 'bad_date'
  | 'bad_content_type'

/** A mail that must not be composed. Intake and processing refuse such mail, so this means that a check is missing. */
export class ComposeError extends Error {
  readonly code: ComposeFault
  /** The header that cannot be written. */
  readonly header: string
  readonly retryable = false

  constructor(code: ComposeFault, header: string, reason: string) {
    super(`The header ${JSON.stringify(header)} cannot be written: ${reason}.`)
    this.name = 'ComposeError'
    this.code = code
    this.header = header
  }
}
