/** A database this service cannot work with as it is; the message says what to do. */
export class SchemaError extends Error {
  readonly code: 'database_newer' | 'not_migrated' | 'pooler_unsound' | 'postgres_too_old' | 'session_needed'

  constructor(code: SchemaError['code'], message: string) {
    super(message)
    this.name = 'SchemaError'
    this.code = code
  }
}
