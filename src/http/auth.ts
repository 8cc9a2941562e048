import type { MiddlewareHandler } from 'hono'
import { createMiddleware } from 'hono/factory'
import { ApiError } from '../errors.ts'
import type { Caller, Keyring, KeyScope } from '../keys.ts'

export type AuthEnv = { Variables: { caller: Caller } }

const BEARER = /^Bearer ([\x21-\x7e]{1,512})$/i

/** Every request names a valid key (RFC 6750 section 2.1); unknown, wrong, expired and revoked ones look the same. */
export function authenticate(keyring: Keyring): MiddlewareHandler<AuthEnv> {
  return createMiddleware<AuthEnv>(async function authenticateCaller(c, next) {
    const header = c.req.header('Authorization')
    if (header === undefined) {
      throw new ApiError(
        'missing_api_key',
        'Missing API key in the authorization header. Include the header `Authorization: Bearer YOUR_API_KEY`.',
      )
    }
    const [, key] = BEARER.exec(header) ?? []
    const caller = key === undefined ? undefined : await keyring.identify(key)
    if (caller === undefined) throw new ApiError('invalid_api_key', 'API key is invalid.')
    c.set('caller', caller)
    await next()
  })
}

/** The route is for keys with one of these scopes; `full` may do everything. */
export function requireScope(...scopes: KeyScope[]): MiddlewareHandler<AuthEnv> {
  return createMiddleware<AuthEnv>(async function checkScope(c, next) {
    const { scope } = c.get('caller')
    if (scope !== 'full' && !scopes.includes(scope)) {
      throw new ApiError(
        'restricted_api_key',
        `This API key has the scope \`${scope}\`, which does not allow this.`,
      )
    }
    await next()
  })
}
