import { Hono } from 'hono'
import { z } from 'zod'
import { reached } from '../crash-point.ts'
import { ApiError } from '../errors.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import type { AppDeps } from './deps.ts'
import { erase } from './erasure-queries.ts'
import { readAddress } from './suppression-entry.ts'

export const erasureSchema = z.strictObject({ address: z.string() })

/** `POST /erasures`: removes a person everywhere, as `mail.erase` does from psql. */
export function erasureRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.post('/', requireScope('operate'), async (c) => {
    const { address } = parseBody(erasureSchema, await readJson(c))
    const read = readAddress(address)
    if (!read.ok) throw new ApiError('validation_error', `Invalid \`address\`: ${read.reason}.`)
    const found = await erase(deps.db, read.address)
    reached('erasure.committed')
    const present = ({ what, rows }: (typeof found)[number]) => ({ what, rows })
    return c.json({
      object: 'erasure',
      complete: !found.some((each) => each.is_left),
      erased: found.filter((each) => !each.is_left).map(present),
      left: found.filter((each) => each.is_left).map(present),
    })
  })
  return routes
}
