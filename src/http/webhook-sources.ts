import { Hono } from 'hono'
import { z } from 'zod'
import { ApiError } from '../errors.ts'
import { WEBHOOK_KINDS } from '../webhook-kinds.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { parseBody, readJson } from './body.ts'
import { asProblem, namePattern } from './control.ts'
import type { AppDeps } from './deps.ts'
import * as queries from './webhook-source-queries.ts'

export const sourceSchema = z.strictObject({
  kind: z.enum(WEBHOOK_KINDS),
  provider: namePattern.nullable().optional(),
  secrets_env: z
    .string()
    .regex(/^[A-Z_][A-Z0-9_]*$/, 'must be the name of an environment variable')
    .nullable()
    .optional(),
  options: z
    .strictObject({
      topic_arns: z
        .array(
          z
            .string()
            .regex(
              /^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]+:[A-Za-z0-9_-]+(?:\.fifo)?$/,
              'must be the ARN of an SNS topic',
            ),
        )
        .min(1)
        .max(100)
        .optional(),
      requires_bounce_address: z.boolean().optional(),
    })
    .optional(),
})

/** `/webhook-sources`: who may call `/webhooks/<kind>/<name>`. A change is noticed within a second. */
export function webhookSourceRoutes({ db }: Pick<AppDeps, 'db'>): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()

  routes.get('/', requireScope('operate'), async (c) =>
    c.json({ object: 'list', has_more: false, data: await queries.listSources(db) }),
  )

  routes.put('/:name', requireScope(), async (c) => {
    const source = nameOf(c.req.param('name'))
    const given = parseBody(sourceSchema, await readJson(c))
    await asProblem(() =>
      queries.saveSource(db, {
        name: source,
        kind: given.kind,
        provider: given.provider ?? null,
        secretsEnv: given.secrets_env ?? null,
        options: given.options ?? {},
      }),
    )
    return c.json(await queries.findSource(db, source))
  })

  routes.delete('/:name', requireScope(), async (c) => {
    const { data: source } = namePattern.safeParse(c.req.param('name'))
    if (source === undefined || !(await queries.deleteSource(db, source))) {
      throw new ApiError('not_found', 'Webhook source not found.')
    }
    return c.json({ object: 'webhook_source', name: source, deleted: true })
  })

  return routes
}

function nameOf(given: string): string {
  return parseBody(z.object({ name: namePattern }), { name: given }).name
}
