import type { Hono } from 'hono'
import { html } from 'hono/html'
import { addressOf } from '../auth.ts'
import type { AppDeps } from '../deps.ts'
import type { FailedAttempts } from '../failed-attempts.ts'
import { dropSession, isFromOwnPage, keepSession, sessionTokenOf } from './cookie.ts'
import { type DashboardEnv, type PageContext, show } from './frame.ts'
import { readForm, showStale } from './guard.ts'
import type { Sessions } from './session.ts'

export type SignInDeps = Pick<AppDeps, 'keyring' | 'log' | 'publicUrl'> & {
  readonly sessions: Sessions
  readonly failures: FailedAttempts
}

type Refusal = { readonly status: 401 | 403 | 429; readonly words: string }

const WRONG_KEY = 'This key is not valid. It may be mistyped, revoked or expired.'

/** `/login` and `/logout`: a key opens a session, and is kept nowhere. */
export function addSignIn(routes: Hono<DashboardEnv>, deps: SignInDeps): void {
  routes.get('/login', async (c) => {
    const isSignedIn = (await deps.sessions.read(sessionTokenOf(c))) !== undefined
    return isSignedIn
      ? c.redirect(nextOf(c.req.query('next')), 303)
      : askForKey(c, nextOf(c.req.query('next')))
  })
  routes.post('/login', (c) => signIn(deps, c))
  routes.post('/logout', (c) => {
    dropSession(c, deps.publicUrl)
    deps.log.info({ keyId: c.get('caller').keyId }, 'signed out of the dashboard')
    return c.redirect('/login', 303)
  })
}

async function signIn(deps: SignInDeps, c: PageContext): Promise<Response> {
  if (!isFromOwnPage(c, deps.publicUrl)) return showStale(c)
  const form = await readForm(c)
  const next = nextOf(form.get('next') ?? undefined)
  const address = addressOf(c)
  const retryAfterS = deps.failures.retryAfterS(address)
  const key = (form.get('key') ?? '').trim()
  const caller = await deps.keyring.identify(key, { mayAsk: retryAfterS === undefined })
  if (caller === undefined) {
    if (retryAfterS !== undefined) {
      c.header('Retry-After', String(retryAfterS))
      const words = `Too many wrong keys came from your address. Try again in ${retryAfterS} seconds.`
      return askForKey(c, next, { status: 429, words })
    }
    deps.failures.note(address)
    return askForKey(c, next, { status: 401, words: WRONG_KEY })
  }
  if (caller.scope !== 'operate' && caller.scope !== 'full') {
    const words = `This key has the scope ${caller.scope}; the dashboard opens with a key of scope operate or full.`
    return askForKey(c, next, { status: 403, words })
  }
  const token = await deps.sessions.open(caller, key)
  if (token === undefined) return askForKey(c, next, { status: 401, words: WRONG_KEY })
  keepSession(c, token, deps.publicUrl)
  deps.log.info({ keyId: caller.keyId }, 'signed in to the dashboard')
  return c.redirect(next, 303)
}

function askForKey(c: PageContext, next: string, refusal?: Refusal): Response | Promise<Response> {
  return show(c, {
    title: 'Sign in',
    status: refusal?.status ?? 200,
    body: html`<form class="card sign-in" method="post" action="/login">
      ${refusal && html`<p class="notice failed" id="refusal" role="alert">${refusal.words}</p>`}
      <input type="hidden" name="next" value="${next}">
      <label for="key">API key</label>
      <input id="key" name="key" type="password" required autocomplete="off" spellcheck="false" maxlength="600"
        aria-describedby="${refusal ? 'refusal ' : ''}key-help"${refusal ? html` aria-invalid="true"` : ''} autofocus>
      <p class="soft" id="key-help">Of scope <code>operate</code> or <code>full</code>; only a <code>full</code> one shows
        what is in messages and templates. Make one with <code>npm start -- key create --name you --scope operate</code>.</p>
      <button class="primary">Sign in</button>
    </form>`,
  })
}

/** A path of ours: nobody is sent elsewhere, whatever a link says. */
function nextOf(given: string | undefined): string {
  const url = URL.parse(given ?? '', 'http://dashboard')
  if (url === null || url.origin !== 'http://dashboard') return '/'
  return url.pathname.startsWith('/dashboard/') ? `${url.pathname}${url.search}` : '/'
}
