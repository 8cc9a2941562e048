import { Hono } from 'hono'
import { sql } from 'kysely'
import type { Database } from '../db/pool.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import type { AppDeps } from './deps.ts'

/** `GET /scale`: how many workers are needed now, as KEDA's metrics-api scaler reads it (`valueLocation: workers`). */
export function scaleRoutes({ db }: Pick<AppDeps, 'db'>): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.get('/', requireScope('read', 'operate'), async (c) => {
    const [scale, streams] = await Promise.all([readScale(db), readScaleStreams(db)])
    return c.json({ object: 'scale', ...scale, streams })
  })
  return routes
}

type Scale = {
  readonly workers: number
  readonly current_workers: number
  readonly wanted_per_s: number
  readonly allowed_per_s: number
  readonly rate_per_worker: number
  readonly reason: string
}

async function readScale(db: Database): Promise<Scale | undefined> {
  const { rows } = await sql<Scale>`/* scale.read */ select * from mail.scale()`.execute(db)
  return rows[0]
}

type ScaleStream = {
  readonly stream: string
  readonly waiting: number
  readonly arrival_per_s: number
  readonly send_within_s: number
  readonly wanted_per_s: number
  readonly allowed_per_s: number
  readonly limited_by: string
  readonly reason: string
}

async function readScaleStreams(db: Database): Promise<ScaleStream[]> {
  const { rows } = await sql<ScaleStream>`/* scale.read_streams */
    select stream, waiting::double precision as waiting, arrival_per_s, send_within_s, wanted_per_s, allowed_per_s,
      limited_by, reason
    from mail.scale_streams()
  `.execute(db)
  return rows
}
