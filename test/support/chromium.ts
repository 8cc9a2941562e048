import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import type { TestContext } from 'node:test'
import {
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  chromium,
  type Page,
} from 'playwright-core'

/** Of the Debian package. */
const CHROMIUM = '/usr/bin/chromium'

/** A reason to skip a test that needs a browser; false where there is one. */
export const NO_CHROMIUM = existsSync(CHROMIUM) ? false : `${CHROMIUM} is not installed`

const PATIENCE_MS = 60_000

export async function openChromium(t: TestContext): Promise<Browser> {
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-dev-shm-usage'],
  })
  t.after(() => browser.close())
  return browser
}

export type Watched = {
  readonly context: BrowserContext
  readonly page: Page
  /** What went wrong on any page so far: errors of scripts and of the console, requests that failed or were refused. */
  readonly faults: readonly string[]
}

/** A window of its own, with nothing kept of others. */
export async function openWindow(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<Watched> {
  const context = await browser.newContext({ baseURL: url, ...options })
  context.setDefaultTimeout(PATIENCE_MS)
  const page = await context.newPage()
  const faults: string[] = []
  const note = (fault: string) => faults.push(`${page.url()}: ${fault}`)
  page.on('pageerror', (error) => note(String(error)))
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) note(`${message.type()} ${message.text()}`)
  })
  page.on('response', (response) => {
    if (response.status() >= 400) note(`${response.status()} for ${response.url()}`)
  })
  page.on('requestfailed', (request) => {
    const why = request.failure()?.errorText ?? ''
    // Whoever goes to another page leaves what the last one was still loading.
    if (why !== 'net::ERR_ABORTED') note(`${why} for ${request.url()}`)
  })
  return { context, page, faults }
}

/** Signs in by the form, as a person does. */
export async function signIn(page: Page, key: string): Promise<void> {
  await page.goto('/')
  await page.getByLabel('API key').fill(key)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor()
}

/** Nothing of the page is wider than the window. */
export async function assertFits(page: Page): Promise<void> {
  const [needed, given] = await page
    .locator('html')
    .evaluate((html: { scrollWidth: number; clientWidth: number }) => [html.scrollWidth, html.clientWidth])
  assert.ok(
    needed !== undefined && given !== undefined && needed <= given,
    `${page.url()} is ${needed} wide in a window of ${given}`,
  )
}
