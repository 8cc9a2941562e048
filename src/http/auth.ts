import type { HttpBindings } from '@hono/node-server'
import type { Context, MiddlewareHandler } from 'hono'
import { createMiddleware } from 'hono/factory'
import { ApiError } from '../errors.ts'
import type { Keyring } from '../keys/keyring.ts'
import type { Caller, KeyScope } from '../keys/keys.ts'
import type { FailedAttempts } from './failed-attempts.ts'

export type AuthEnv = { Variables: { caller: Caller } }

const BEARER = /^Bearer ([\x21-\x7e]{1,512})$/i

/**
 * Every request names a valid key (RFC 6750 section 2.1); unknown, wrong, expired and revoked ones look the same.
 * An address with too many failures is turned away before the database is asked, unless its key was right before.
 */
export function authenticate(keyring: Keyring, failures: FailedAttempts): MiddlewareHandler<AuthEnv> {
  return createMiddleware<AuthEnv>(async function authenticateCaller(c, next) {
    const header = c.req.header('Authorization')
    if (header === undefined) {
      throw new ApiError(
        'missing_api_key',
        'Missing API key in the authorization header. Include the header `Authorization: Bearer YOUR_API_KEY`.',
      )
    }
    const address = addressOf(c)
    const retryAfterS = failures.retryAfterS(address)
    const [, key] = BEARER.exec(header) ?? []
    const caller =
      key === undefined ? undefined : await keyring.identify(key, { mayAsk: retryAfterS === undefined })
    if (caller === undefined) throw refuse(failures, address, retryAfterS)
    c.set('caller', caller)
    await next()
  })
}

function refuse(failures: FailedAttempts, address: string, retryAfterS: number | undefined): ApiError {
  if (retryAfterS !== undefined) {
    return new ApiError(
      'rate_limit_exceeded',
      'Too many requests with a wrong API key from this address. Repeat after the seconds in `retry-after`.',
      { retryAfterS },
    )
  }
  failures.note(address)
  return new ApiError('invalid_api_key', 'API key is invalid.')
}

/** Whoever holds the connection; a request that came over none shares one name. */
export function addressOf(c: Context): string {
  const { incoming } = (c.env ?? {}) as Partial<HttpBindings>
  return incoming?.socket.remoteAddress ?? ''
}

const scopesOfHandler = new WeakMap<object, readonly KeyScope[]>()

/** The route is for keys with one of these scopes; `full` may do everything. */
export function requireScope(...scopes: KeyScope[]): MiddlewareHandler<AuthEnv> {
  const handler = createMiddleware<AuthEnv>(function checkScope(c, next) {
    const { scope } = c.get('caller')
    if (scope !== 'full' && !scopes.includes(scope)) {
      throw new ApiError(
        'restricted_api_key',
        `This API key has the scope \`${scope}\`, which does not allow this; use one of scope ${[...scopes, 'full'].map((each) => `\`${each}\``).join(' or ')}.`,
      )
    }
    return next()
  })
  scopesOfHandler.set(handler, scopes)
  return handler
}

/** The scopes that a handler asks for, when requireScope made it: no route may be without. */
export function scopesOf(handler: object): readonly KeyScope[] | undefined {
  return scopesOfHandler.get(handler)
}
