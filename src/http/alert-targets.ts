import { Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { parseAddress } from '../message/address.ts'
import { webhookTarget } from '../webhook-target.ts'
import * as queries from './alert-queries.ts'
import { foundOr, idOf } from './alerts.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import { asProblem, namePattern } from './control.ts'
import type { AppDeps } from './deps.ts'

const variable = z.string().regex(/^[A-Z_][A-Z0-9_]*$/, 'must be the name of an environment variable')
const address = z
  .string()
  .max(320)
  .refine((text) => {
    const parsed = parseAddress(text)
    return parsed.ok && parsed.address.address === text
  }, 'must be an address such as `ops@example.com`, without a name')

const settings = {
  url: z.string().max(2_000).nullable().optional(),
  url_env: variable.nullable().optional(),
  secret_env: variable.nullable().optional(),
  address: address.nullable().optional(),
  sender: address.nullable().optional(),
  min_severity: z.enum(['warning', 'critical']).optional(),
  enabled: z.boolean().optional(),
}
export const newTargetSchema = z.strictObject({
  name: namePattern,
  kind: z.enum(['slack', 'generic', 'email']),
  ...settings,
})
export const targetChangesSchema = z.strictObject(settings)

/** `/alert-targets`: who is told of alerts. Where they go takes a full key, as with webhooks. */
export function alertTargetRoutes(deps: AppDeps): Hono<AuthEnv> {
  const { db, log } = deps
  const routes = new Hono<AuthEnv>()

  routes.get('/', requireScope('operate'), async (c) =>
    c.json({ object: 'list', has_more: false, data: await queries.listTargets(db) }),
  )

  routes.post('/', requireScope(), async (c) => {
    const given = parseBody(newTargetSchema, await readJson(c))
    refuseUnreachable(deps, given.url)
    const id = await asProblem(() => queries.createTarget(db, given))
    if (id === undefined) {
      throw new ApiError('validation_error', `Invalid \`name\`: there is a target ${given.name} already.`)
    }
    log.info({ target: given.name }, 'alert target made')
    return c.json(foundOr(await queries.findTarget(db, id), 'alert target'))
  })

  routes.get('/:id', requireScope('operate'), async (c) =>
    c.json(foundOr(await queries.findTarget(db, idOf(c, 'alert target')), 'alert target')),
  )

  routes.patch('/:id', requireScope('operate'), async (c) => {
    const changes = parseBody(targetChangesSchema, await readJson(c))
    const { min_severity: _severity, enabled: _enabled, ...whereTo } = changes
    if (Object.keys(whereTo).length > 0 && c.get('caller').scope !== 'full') {
      throw new ApiError(
        'restricted_api_key',
        'This API key may change nothing but `min_severity` and `enabled` of an alert target.',
      )
    }
    refuseUnreachable(deps, changes.url)
    const id = idOf(c, 'alert target')
    await asProblem(() => queries.changeTarget(db, id, changes))
    return c.json(foundOr(await queries.findTarget(db, id), 'alert target'))
  })

  routes.delete('/:id', requireScope(), async (c) => {
    const id = idOf(c, 'alert target')
    if (!(await queries.removeTarget(db, id))) foundOr(undefined, 'alert target')
    log.info({ target: id }, 'alert target removed')
    return c.json({ object: 'alert_target', id, deleted: true })
  })

  routes.post('/:id/test', requireScope('operate'), async (c) => {
    const id = idOf(c, 'alert target')
    const error = foundOr(await deps.testAlertTarget(id), 'alert target')
    return c.json({ object: 'alert_target', id, delivered: error === null, error })
  })

  return routes
}

function refuseUnreachable(deps: AppDeps, url: string | null | undefined): void {
  if (url === undefined || url === null) return
  const target = webhookTarget(url, deps.webhookHosts)
  if (!target.ok) throw new ApiError('validation_error', `Invalid \`url\`: ${target.reason}.`)
}
