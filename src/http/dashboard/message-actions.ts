import type { Hono } from 'hono'
import { ApiError } from '../../errors.ts'
import { readScheduledAt } from '../../message/scheduled-at.ts'
import type { MessageState } from '../../states.ts'
import type { AppDeps } from '../deps.ts'
import { emailIdOf } from '../email-id.ts'
import * as queries from '../queries.ts'
import { act } from './action.ts'
import type { DashboardEnv, PageContext } from './frame.ts'
import { wordsIn } from './input.ts'
import { settleUnknown } from './message-queries.ts'
import type { Notice } from './notice.ts'

type Deps = Pick<AppDeps, 'clock' | 'db' | 'log'>

const PATH = '/dashboard/messages/:id'

/** What can be done with one message; each is safe to repeat, and says what came first when it was too late. */
export function addMessageActions(routes: Hono<DashboardEnv>, deps: Deps): void {
  routes.post(`${PATH}/cancel`, (c) =>
    change(deps, c, 'canceled', (id) => queries.cancel(deps.db, id), 'It is canceled.'),
  )
  routes.post(`${PATH}/reschedule`, (c) => {
    const given = wordsIn(c.get('form'), 'at') ?? ''
    const reschedule = async (id: string) => {
      const read = readScheduledAt(given, deps.clock.now())
      if (!read.ok) throw new ApiError('validation_error', `Send it: ${read.reason}.`)
      return queries.reschedule(deps.db, id, new Date(read.at))
    }
    return change(deps, c, 'scheduled', reschedule, 'It has another time.')
  })
  routes.post(`${PATH}/settle`, (c) => {
    const id = emailIdOf(c)
    const as = c.get('form').get('as')
    return act(c, `/dashboard/messages/${id}`, async (): Promise<Notice> => {
      if (as !== 'sent' && as !== 'retry') {
        throw new ApiError('validation_error', 'Say whether it was sent, or is to be sent again.')
      }
      if (!(await settleUnknown(deps.db, id, as))) {
        return { tone: 'nothing', text: 'Its outcome is known already.' }
      }
      deps.log.info({ keyId: c.get('caller').keyId, id, as }, 'unknown outcome settled from the dashboard')
      return { tone: 'done', text: as === 'sent' ? 'It counts as sent.' : 'It is on its way again.' }
    })
  })
}

async function change(
  deps: Deps,
  c: PageContext,
  wanted: MessageState,
  attempt: (id: string) => Promise<MessageState | null>,
  done: string,
): Promise<Response> {
  const id = emailIdOf(c)
  return act(c, `/dashboard/messages/${id}`, async (): Promise<Notice> => {
    const state = await attempt(id)
    if (state === null) {
      return {
        tone: 'failed',
        text: 'It is not stored yet, or not any more. Load the page again and repeat it.',
      }
    }
    if (state !== wanted) return { tone: 'nothing', text: `It can no longer be ${wanted}: it is ${state}.` }
    deps.log.info({ keyId: c.get('caller').keyId, id, state }, 'message changed from the dashboard')
    return { tone: 'done', text: done }
  })
}
