import assert from 'node:assert/strict'

/** A person with a browser, as far as the dashboard can tell: keeps its cookie, follows redirects, sends forms. */
export type Browser = {
  /** Signs in; fails unless that works. */
  signIn(key: string): Promise<void>
  /** Without following a redirect. */
  request(path: string, options?: RequestInit): Promise<Response>
  /** A page, after any redirects; fails unless it has this status. */
  page(path: string, status?: number): Promise<string>
  /** Sends a form of a page, with the fields that are hidden in it and these; the page it leads to. */
  submit(
    page: string,
    action: string,
    fields?: Readonly<Record<string, string>>,
    status?: number,
  ): Promise<string>
  cookie: string
}

const OWN_PAGE = { 'Sec-Fetch-Site': 'same-origin' }
const FORM = { 'Content-Type': 'application/x-www-form-urlencoded' }

export function openBrowser(url: string): Browser {
  const browser: Browser = {
    cookie: '',
    request: async (path, options = {}) => {
      const response = await fetch(new URL(path, url), {
        redirect: 'manual',
        ...options,
        headers: { ...OWN_PAGE, Cookie: browser.cookie, ...(options.headers as Record<string, string>) },
      })
      const [, set] = /(sluice_session=[^;]*)/.exec(response.headers.get('Set-Cookie') ?? '') ?? []
      if (set !== undefined) browser.cookie = set
      return response
    },
    async signIn(key) {
      const response = await browser.request('/login', {
        method: 'POST',
        headers: FORM,
        body: new URLSearchParams({ key, next: '/' }).toString(),
      })
      assert.equal(response.status, 303, await response.text())
    },
    page: (path, status = 200) => follow(browser, browser.request(path), status),
    submit(page, action, fields = {}, status = 200) {
      const form = formOf(page, action)
      const body = new URLSearchParams({ ...form.hidden, ...fields }).toString()
      return follow(browser, browser.request(form.action, { method: 'POST', headers: FORM, body }), status)
    },
  }
  return browser
}

async function follow(browser: Browser, first: Promise<Response>, status: number): Promise<string> {
  let response = await first
  for (let hops = 0; response.status === 303 && hops < 5; hops += 1) {
    response = await browser.request(response.headers.get('Location') ?? '/')
  }
  const text = await response.text()
  assert.equal(response.status, status, text)
  assert.match(response.headers.get('Content-Type') ?? '', /^text\/html/)
  return text
}

/** The first form whose action begins so, with what is in its fields already. */
export function formOf(page: string, action: string): { action: string; hidden: Record<string, string> } {
  for (const [, attributes = '', inner = ''] of page.matchAll(/<form([^>]*)>(.*?)<\/form>/gs)) {
    const given = plain(/action="([^"]*)"/.exec(attributes)?.[1] ?? '')
    if (!given.startsWith(action)) continue
    const inputs = [...inner.matchAll(/<input[^>]*\bname="([^"]*)"[^>]*\bvalue="([^"]*)"/g)]
    return {
      action: given,
      hidden: Object.fromEntries(inputs.map(([, name = '', value = '']) => [name, plain(value)])),
    }
  }
  throw new Error(`no form of this page goes to ${action}:\n${page}`)
}

/** What a text of the page says. */
export function plain(text: string): string {
  return text
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&amp;', '&')
}
