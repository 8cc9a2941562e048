import { z } from 'zod'
import { API_ERRORS, type ApiErrorName } from '../../errors.ts'
import { answerSchema, type ProblemStatus } from './operation.ts'

export const errorSchema = answerSchema(
  'Error',
  z.strictObject({
    statusCode: z.int(),
    name: z.enum(Object.keys(API_ERRORS) as ApiErrorName[]),
    message: z.string(),
  }),
  {
    name: 'What went wrong; branch on this.',
    message: 'What happened, to what, and what to do next: for people.',
  },
)

type Problem = {
  readonly description: string
  readonly names: readonly [ApiErrorName, ...ApiErrorName[]]
  readonly message: string
  readonly headers?: readonly string[]
}

/** What each status means, with the names it comes with and an example. */
export const PROBLEMS: Readonly<Record<ProblemStatus, Problem>> = {
  400: {
    description: 'The body is not JSON as it should be, or the `Idempotency-Key` is no key.',
    names: ['validation_error', 'invalid_idempotency_key'],
    message: 'The request body is not valid JSON.',
  },
  401: {
    description: 'No API key, one that is not valid, or one that may not do this.',
    names: ['missing_api_key', 'invalid_api_key', 'restricted_api_key'],
    message:
      'Missing API key in the authorization header. Include the header `Authorization: Bearer YOUR_API_KEY`.',
  },
  403: {
    description: 'This API key may not send from this sender.',
    names: ['validation_error'],
    message: 'Invalid `from`: this API key may not send from `example.org`; use an address at `example.com`.',
  },
  404: {
    description: 'There is none, or none that may be seen.',
    names: ['not_found'],
    message: 'Email not found.',
  },
  408: {
    description: 'The body arrived too slowly.',
    names: ['validation_error'],
    message: 'The body arrived too slowly. Repeat the request.',
  },
  409: {
    description: 'The `Idempotency-Key` was used before with another body, or its first request is not done.',
    names: ['invalid_idempotent_request', 'concurrent_idempotent_requests'],
    message:
      'This idempotency key was used with another message within the last 24 hours; use a key of its own for each message.',
  },
  413: {
    description: 'The body is larger than the limit.',
    names: ['payload_too_large'],
    message: 'The request body is larger than 5242880 bytes, the limit set by SLUICE_MAX_BODY_BYTES.',
  },
  415: {
    description: 'The body is compressed.',
    names: ['validation_error'],
    message: 'The body must not be compressed: leave out the header `Content-Encoding`.',
  },
  422: {
    description: 'A field is missing or wrong: the message names it, and says why and what would be right.',
    names: ['validation_error', 'missing_required_field', 'invalid_attachment'],
    message: 'Invalid `to[1]`: it has no `@`; use an address like `name@example.com`.',
  },
  429: {
    description:
      'Too many requests, or the doors are too full for mail of this stream. Repeat after `Retry-After`.',
    names: ['rate_limit_exceeded'],
    message:
      'Too many requests: this API key may make 10 a second. Repeat the request after the seconds in `retry-after`.',
    headers: ['Retry-After', 'ratelimit-limit', 'ratelimit-remaining', 'ratelimit-reset'],
  },
  500: {
    description: 'A fault of ours.',
    names: ['application_error'],
    message: 'Something went wrong on our side; the log of Sluice has the details.',
  },
  503: {
    description:
      'Not at the moment: the database is away, the doors are full, or no durable answer could be had in time. Repeat after `Retry-After`, with the same `Idempotency-Key`.',
    names: ['service_unavailable'],
    message:
      'The database cannot do this at the moment: it is away, or has no room or connection left. Try again in a few seconds.',
    headers: ['Retry-After'],
  },
}

const RATE_HEADERS = {
  'Retry-After': 'Seconds after which the request may be repeated.',
  'ratelimit-limit': 'Requests that this key may make at once.',
  'ratelimit-remaining': 'Requests that are left.',
  'ratelimit-reset': 'Seconds until all are there again.',
} as const

/** The errors as components that the operations refer to. */
export function problemResponses(): Record<string, object> {
  return Object.fromEntries(
    Object.entries(PROBLEMS).map(([status, { description, names, message, headers = [] }]) => [
      problemName(Number(status)),
      {
        description: `${description} (${names.map((name) => `\`${name}\``).join(', ')})`,
        ...(headers.length > 0 && {
          headers: Object.fromEntries(headers.map((name) => [name, rateHeader(name)])),
        }),
        content: {
          'application/json': {
            schema: { $ref: '#/components/schemas/Error' },
            example: { statusCode: Number(status), name: names[0], message },
          },
        },
      },
    ]),
  )
}

export function problemName(status: number): string {
  return `Error${status}`
}

function rateHeader(name: string): object {
  return {
    description: RATE_HEADERS[name as keyof typeof RATE_HEADERS],
    schema: { type: 'integer', minimum: 0 },
  }
}
