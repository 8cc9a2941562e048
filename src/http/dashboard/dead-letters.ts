import type { Hono } from 'hono'
import { sqlState } from '../../db/sqlstate.ts'
import { ApiError } from '../../errors.ts'
import * as control from '../control-queries.ts'
import type { AppDeps } from '../deps.ts'
import { act } from './action.ts'
import { type DeadLetterFilter, lettersLink, readFilter } from './dead-letter-filter.ts'
import { groupsPage, lettersPage, RETRY_DEFAULTS } from './dead-letter-pages.ts'
import { countLetters, type LetterCursor, listLetters, now } from './dead-letter-queries.ts'
import { counted } from './elements.ts'
import { type DashboardEnv, type PageContext, show } from './frame.ts'
import { idIn, momentIn, numberIn, parametersOf } from './input.ts'
import type { Notice } from './notice.ts'

const MAX_GROUPS = 200
const PAGE_SIZE = 50
/** Counted so far and no further. */
const MAX_COUNTED = 100_000
/** Of one action: as by REST. */
const MAX_AT_ONCE = 1_000_000
const NOTHING_MATCHES = 'P0002'

/** `/dashboard/dead-letters`: what failed for good, by cause, one by one, retried and given up. */
export function addDeadLetters(routes: Hono<DashboardEnv>, deps: Pick<AppDeps, 'db' | 'log'>): void {
  const path = '/dashboard/dead-letters'
  routes.get(path, async (c) => {
    const groups = await control.summariseDeadLetters(deps.db, MAX_GROUPS + 1)
    return show(c, groupsPage(groups.slice(0, MAX_GROUPS), groups.length > MAX_GROUPS))
  })
  routes.get(`${path}/letters`, (c) => showLetters(deps, c))
  routes.post(`${path}/retry`, (c) => retry(deps, c))
  routes.post(`${path}/discard`, (c) => discard(deps, c))
}

async function showLetters({ db }: Pick<AppDeps, 'db'>, c: PageContext): Promise<Response> {
  const given = parametersOf(c.req.url)
  const filter = readFilter(given)
  const cursor = readCursor(given.get('after') ?? '')
  const letters = await listLetters(db, filter, cursor, PAGE_SIZE + 1)
  const count = await countLetters(db, filter, MAX_COUNTED)
  const seenAt = await now(db)
  return show(
    c,
    lettersPage({
      filter,
      letters: letters.slice(0, PAGE_SIZE),
      hasMore: letters.length > PAGE_SIZE,
      isFirst: cursor === undefined,
      count,
      isCut: count === MAX_COUNTED,
      seenAt,
      session: c.get('session'),
    }),
  )
}

/** What cannot be a place in the list is its beginning. */
function readCursor(text: string): LetterCursor | undefined {
  const [, position, id] = /^(\d{1,16})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/.exec(text) ?? []
  return position === undefined || id === undefined ? undefined : { position, id }
}

type Deps = Pick<AppDeps, 'db' | 'log'>

async function retry(deps: Deps, c: PageContext): Promise<Response> {
  const form = c.get('form')
  if (form.has('id')) {
    const id = idIn(form, 'id')
    return act(c, backTo(form), async () => {
      const isDone = await control.retryOne(deps.db, id)
      if (isDone) note(deps, c, 'dead letter retried', { id })
      return isDone
        ? { tone: 'done', text: `Message ${id} is on its way again.` }
        : {
            tone: 'nothing',
            text: `Message ${id} is not a dead letter any more: it was retried or discarded already.`,
          }
    })
  }
  return act(c, backTo(form), async () => {
    const max = numberIn(form, 'max', { label: 'At most', min: 1, max: MAX_AT_ONCE, isWhole: true })
    const perSecond = numberIn(form, 'per_second', { label: 'A second', ...RETRY_DEFAULTS.limits })
    return many(deps, c, 'retried', `retried, ${perSecond} a second`, (filter) =>
      control.retryMany(deps.db, filter, max, perSecond),
    )
  })
}

async function discard(deps: Deps, c: PageContext): Promise<Response> {
  const form = c.get('form')
  if (form.has('id')) {
    const id = idIn(form, 'id')
    return act(c, backTo(form), async () => {
      const isDone = await control.discardOne(deps.db, id)
      if (isDone) note(deps, c, 'dead letter discarded', { id })
      return isDone
        ? { tone: 'done', text: `Message ${id} is given up: it is canceled.` }
        : {
            tone: 'nothing',
            text: `Message ${id} is not a dead letter any more: it was retried or discarded already.`,
          }
    })
  }
  return act(c, backTo(form), async () => {
    const max = numberIn(form, 'max', { label: 'At most', min: 1, max: MAX_AT_ONCE, isWhole: true })
    return many(deps, c, 'discarded', 'discarded', (filter) => control.discardMany(deps.db, filter, max))
  })
}

/** How many were meant and found, and how many that match are left. */
async function many(
  deps: Deps,
  c: PageContext,
  what: string,
  words: string,
  work: (filter: object) => Promise<number>,
): Promise<Notice> {
  const filter = readFilter(new URLSearchParams(c.get('form').get('filter') ?? ''))
  const done = await unlessNothing(work({ ...filter, until: untilSeen(c.get('form'), filter) }))
  if (done > 0) note(deps, c, `dead letters ${what}`, { filter, count: done })
  const left = await countLetters(deps.db, filter, MAX_COUNTED)
  const rest =
    left === 0 ? 'None that match are left.' : `${counted(left, 'that matches is', 'that match are')} left.`
  return done === 0
    ? {
        tone: 'nothing',
        text: `0 messages were ${what}: those that matched were retried or discarded already. ${rest}`,
      }
    : { tone: 'done', text: `${counted(done, 'message')} ${words}. ${rest}` }
}

/** What died since the page was loaded nobody has looked at: sent again, an old form does not reach it. */
function untilSeen(form: URLSearchParams, { until }: DeadLetterFilter): string {
  const seenAt = momentIn(form, 'seen_at', 'Seen at')?.toISOString()
  if (seenAt === undefined) throw new ApiError('validation_error', 'This page is old. Load it again.')
  return until !== undefined && until < seenAt ? until : seenAt
}

async function unlessNothing(work: Promise<number>): Promise<number> {
  try {
    return await work
  } catch (error) {
    if (sqlState(error) === NOTHING_MATCHES) return 0
    throw error
  }
}

/** The list the form stands on, or the message. */
function backTo(form: URLSearchParams): string {
  const filter = new URLSearchParams(form.get('filter') ?? '')
  if (form.get('back') === 'message') return `/dashboard/messages/${idIn(form, 'id')}`
  return lettersLink(readFilter(filter))
}

function note(deps: Deps, c: PageContext, what: string, details: object): void {
  deps.log.info({ keyId: c.get('caller').keyId, ...details }, `${what} from the dashboard`)
}
