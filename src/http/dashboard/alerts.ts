import type { Hono } from 'hono'
import { ApiError } from '../../errors.ts'
import { acknowledgeAlert, silence } from '../alert-queries.ts'
import type { AppDeps } from '../deps.ts'
import { act } from './action.ts'
import { ALERTS_PATH, alertsPage, SILENCES_H } from './alert-pages.ts'
import { countTargets, endSilence, readOpenAlerts, readPastAlerts } from './alert-queries.ts'
import { linkTo } from './elements.ts'
import { type DashboardEnv, type PageContext, show } from './frame.ts'
import { idIn, wordsIn } from './input.ts'

type Deps = Pick<AppDeps, 'db' | 'log'>

const MAX_OPEN = 200
const PAGE_SIZE = 50
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** `/dashboard/alerts`: what fired, since when and what to do next; looked after, or silenced for a while. */
export function addAlerts(routes: Hono<DashboardEnv>, deps: Deps): void {
  routes.get(ALERTS_PATH, (c) => showAlerts(deps, c))
  routes.post(`${ALERTS_PATH}/acknowledge`, (c) => acknowledge(deps, c))
  routes.post(`${ALERTS_PATH}/silence`, (c) => keepQuiet(deps, c))
  routes.post(`${ALERTS_PATH}/unsilence`, (c) => speakAgain(deps, c))
}

async function showAlerts({ db }: Deps, c: PageContext): Promise<Response> {
  const given = c.req.query('before') ?? ''
  // What cannot be a place in the list is its beginning.
  const before = UUID.test(given) ? given : undefined
  const past = await readPastAlerts(db, before, PAGE_SIZE + 1)
  const shown = past.slice(0, PAGE_SIZE)
  return show(
    c,
    alertsPage({
      now: new Date(),
      open: await readOpenAlerts(db, MAX_OPEN),
      past: shown,
      targets: await countTargets(db),
      newest: before === undefined ? undefined : ALERTS_PATH,
      older: past.length > PAGE_SIZE ? linkTo(ALERTS_PATH, { before: shown.at(-1)?.id }) : undefined,
      session: c.get('session'),
    }),
  )
}

async function acknowledge({ db, log }: Deps, c: PageContext): Promise<Response> {
  const id = idIn(c.get('form'), 'id')
  return act(c, ALERTS_PATH, async () => {
    const { keyId, name } = c.get('caller')
    const alert = (await acknowledgeAlert(db, id, name)) as
      | { readonly acknowledged_by: string | null; readonly resolved_at: Date | null }
      | undefined
    if (alert === undefined || alert.resolved_at !== null) {
      return { tone: 'nothing', text: 'This alert is over already.' }
    }
    log.info({ keyId, alert: id }, 'alert acknowledged from the dashboard')
    return {
      tone: 'done',
      text: `${alert.acknowledged_by} looks after this alert: nobody is reminded of it any more.`,
    }
  })
}

async function keepQuiet({ db, log }: Deps, c: PageContext): Promise<Response> {
  return act(c, ALERTS_PATH, async () => {
    const { rule, subject } = aboutIn(c.get('form'))
    const hours = SILENCES_H.find((each) => String(each) === c.get('form').get('hours'))
    if (hours === undefined) throw new ApiError('validation_error', 'For how long: choose one of the list.')
    const until = new Date(Date.now() + hours * 3_600_000)
    await silence(db, { rule, subject, until })
    log.info({ keyId: c.get('caller').keyId, rule, subject, until }, 'alert silenced from the dashboard')
    const about = subject === '' ? rule : `${rule} about ${subject}`
    return {
      tone: 'done',
      text: `Nobody is told of ${about} until ${until.toISOString().slice(0, 16).replace('T', ' ')}.`,
    }
  })
}

async function speakAgain({ db, log }: Deps, c: PageContext): Promise<Response> {
  return act(c, ALERTS_PATH, async () => {
    const { rule, subject } = aboutIn(c.get('form'))
    if (!(await endSilence(db, rule, subject))) {
      return { tone: 'nothing', text: 'This silence is over already.' }
    }
    log.info({ keyId: c.get('caller').keyId, rule, subject }, 'silence ended from the dashboard')
    return { tone: 'done', text: `People are told of ${rule} again.` }
  })
}

/** Some alerts are about nothing but their rule. */
function aboutIn(form: URLSearchParams): { rule: string; subject: string } {
  return { rule: wordsIn(form, 'rule') ?? '', subject: wordsIn(form, 'subject') ?? '' }
}
