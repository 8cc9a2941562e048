import { ApiError } from '../errors.ts'

/** It was handed to the database, and nobody knows what became of it. */
export function unavailable(cause: unknown): ApiError {
  return new ApiError(
    'service_unavailable',
    'The email could not be stored durably in time. It may still be sent: repeat the request with the same Idempotency-Key to be sure that it goes out once.',
    { retryAfterS: 2, cause },
  )
}

/** It did not leave for the database. */
export function notAccepted(): ApiError {
  return new ApiError(
    'service_unavailable',
    'The email was not accepted: more mail waits for the database than can be held, or it did not answer in time. Repeat the request.',
    { retryAfterS: 2 },
  )
}
