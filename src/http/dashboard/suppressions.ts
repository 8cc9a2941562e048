import type { Hono } from 'hono'
import { ApiError } from '../../errors.ts'
import type { AppDeps } from '../deps.ts'
import { exportSuppressions } from '../suppression-csv.ts'
import { EVERY_STREAM, readAddress, reasonSchema, scopeFault } from '../suppression-entry.ts'
import * as queries from '../suppression-queries.ts'
import { act } from './action.ts'
import { linkTo } from './elements.ts'
import { type DashboardEnv, type PageContext, show } from './frame.ts'
import { inTime } from './in-time.ts'
import { idIn, momentIn, parametersOf, wordsIn } from './input.ts'
import type { Notice } from './notice.ts'
import { type SuppressionView, suppressionPage } from './suppression-page.ts'

type Deps = Pick<AppDeps, 'db' | 'log' | 'catalog'>

const PATH = '/dashboard/suppressions'
const PAGE_SIZE = 50
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** `/dashboard/suppressions`: who gets no mail and why; added and taken off. */
export function addSuppressions(routes: Hono<DashboardEnv>, deps: Deps): void {
  routes.get(PATH, async (c) => show(c, suppressionPage(await look(deps, c))))
  routes.get(`${PATH}/export`, (c) => exportSuppressions(deps.db, c))
  routes.post(`${PATH}/add`, (c) => add(deps, c))
  routes.post(`${PATH}/remove`, (c) => remove(deps, c))
}

async function look({ db, catalog }: Deps, c: PageContext): Promise<SuppressionView> {
  const given = parametersOf(c.req.url)
  const after = given.get('after') ?? ''
  const filter = {
    containing: wordsIn(given, 'q')?.toLowerCase(),
    origin: wordsIn(given, 'origin'),
    scope: wordsIn(given, 'scope'),
  }
  // What cannot be a place in the list is its beginning.
  const cursor = UUID.test(after) ? after : undefined
  const rows = await inTime(db, (trx) =>
    queries.listSuppressions(trx, { ...filter, after: cursor, limit: PAGE_SIZE }),
  )
  const page = rows.slice(0, PAGE_SIZE)
  const link = (place: string | undefined) =>
    linkTo(PATH, { q: filter.containing, origin: filter.origin, scope: filter.scope, after: place })
  return {
    filter,
    rows: page,
    streams: [...catalog.current.streams.keys()].sort(),
    newest: cursor === undefined ? undefined : link(undefined),
    older: rows.length > PAGE_SIZE ? link(page.at(-1)?.id) : undefined,
    session: c.get('session'),
  }
}

async function add({ db, log, catalog }: Deps, c: PageContext): Promise<Response> {
  const form = c.get('form')
  return act(c, PATH, async (): Promise<Notice> => {
    const read = readAddress(wordsIn(form, 'address') ?? '')
    if (!read.ok) throw new ApiError('validation_error', `Address: ${read.reason}.`)
    const scope = wordsIn(form, 'scope') ?? EVERY_STREAM
    const fault = scopeFault(catalog.current, scope)
    if (fault !== undefined) throw new ApiError('validation_error', `Applies to: ${fault}.`)
    const expiresAt = momentIn(form, 'until', 'Until')
    if (expiresAt !== undefined && expiresAt.getTime() <= Date.now()) {
      throw new ApiError('validation_error', 'Until: it is in the past; leave it empty for no end.')
    }
    const { caller } = c.get('session')
    const [stored] = await queries.storeSuppressions(db, [
      {
        address: read.address,
        scope,
        origin: 'manual',
        reason: reasonSchema.catch('manual').parse(wordsIn(form, 'reason') ?? ''),
        source: `api key ${caller.name}, dashboard`.slice(0, 200).toWellFormed(),
        expires_at: expiresAt?.toISOString() ?? null,
      },
    ])
    if (stored?.origin !== 'manual') {
      return {
        tone: 'nothing',
        text: `${read.address} is on the list already, because of a ${stored?.origin ?? 'rule'}.`,
      }
    }
    log.info({ keyId: caller.keyId, suppression: stored.id }, 'address suppressed from the dashboard')
    return {
      tone: 'done',
      text: `${read.address} gets no more mail${scope === EVERY_STREAM ? '' : ` of ${scope}`}.`,
    }
  })
}

async function remove({ db, log }: Deps, c: PageContext): Promise<Response> {
  const form = c.get('form')
  const back = linkTo(PATH, { q: wordsIn(form, 'q') })
  return act(c, back, async (): Promise<Notice> => {
    const id = idIn(form, 'id')
    const [gone] = await queries.removeSuppressions(db, { ids: [id], scope: EVERY_STREAM })
    if (gone === undefined) return { tone: 'nothing', text: 'It is not on the list any more.' }
    log.info(
      { keyId: c.get('caller').keyId, suppression: id },
      'address taken off the list from the dashboard',
    )
    return { tone: 'done', text: `${gone.address} may get mail again.` }
  })
}
