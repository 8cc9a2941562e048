/**
 * The closed set of errors a caller of the REST API can meet, with the status each is answered with.
 * Names are Resend's, so that its SDKs and the code written against them keep working.
 */
export const API_ERRORS = {
  validation_error: 422,
  missing_required_field: 422,
  invalid_attachment: 422,
  invalid_idempotency_key: 400,
  missing_api_key: 401,
  invalid_api_key: 401,
  restricted_api_key: 401,
  // Ours: of a provider's webhook, which has no API key.
  invalid_signature: 401,
  not_found: 404,
  method_not_allowed: 405,
  invalid_idempotent_request: 409,
  concurrent_idempotent_requests: 409,
  payload_too_large: 413,
  rate_limit_exceeded: 429,
  application_error: 500,
  service_unavailable: 503,
} as const

export type ApiErrorName = keyof typeof API_ERRORS

/** What is wrong with one input: `field` is the JSON path of the offending value, such as `to[1]`. */
export type Problem = {
  readonly name: ApiErrorName
  readonly message: string
  readonly field?: string
}

/** An error that ends a request. `message` says what happened, to what, and what to do next. */
export class ApiError extends Error {
  readonly code: ApiErrorName
  readonly status: number
  /** Seconds after which the same request may succeed; sent as `Retry-After`. */
  readonly retryAfterS: number | undefined

  constructor(
    code: ApiErrorName,
    message: string,
    options: { status?: number; retryAfterS?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.name = 'ApiError'
    this.code = code
    this.status = options.status ?? API_ERRORS[code]
    this.retryAfterS = options.retryAfterS
  }
}
