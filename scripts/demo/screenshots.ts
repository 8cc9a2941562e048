import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type Browser, chromium, type Page } from 'playwright-core'

/**
 * Makes docs/images/*.png from the demo. Usage: npm run demo:screenshots; needs Chromium (CHROMIUM names it where it is
 * not /usr/bin/chromium).
 */

const ORDERS = '6000'
const WIDE = { width: 1280, height: 800 }
const PHONE = { width: 390, height: 800 }

const root = new URL('../../', import.meta.url)
const images = fileURLToPath(new URL('docs/images/', root))

const demo = spawn(
  process.execPath,
  [fileURLToPath(new URL('main.ts', import.meta.url)), '--repair', 'you', '--orders', ORDERS, '--port', '0'],
  { stdio: ['pipe', 'pipe', 'inherit'] },
)
const ended = once(demo, 'close')
let said = ''
demo.stdout.setEncoding('utf8').on('data', (chunk: string) => {
  said += chunk
})
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--hide-scrollbars'],
})
try {
  await take(browser)
} finally {
  await browser.close()
  demo.kill('SIGTERM')
  await ended
}

async function take(chromium: Browser): Promise<void> {
  const [, databaseUrl] = await hears(/psql '(\S+)'/)
  const [, url = ''] = /dashboard +(\S+)/.exec(said) ?? []
  const [, key = ''] = /API key +(\S+)/.exec(said) ?? []
  if (databaseUrl === undefined) throw new Error(said)
  const page = await openPage(chromium, url, key, { viewport: WIDE, colorScheme: 'light' })
  demo.stdin.end('\n')

  await hears(/1\. .*See it/s)
  await page.locator('#alerts li').first().waitFor()
  await page.screenshot({ path: `${images}overview.png` })
  const dark = await openPage(chromium, url, key, { viewport: WIDE, colorScheme: 'dark' })
  await dark.locator('.uplot').first().waitFor()
  await dark.screenshot({ path: `${images}overview-dark.png` })
  await put(`${url}streams/orders`, key, { route: ['api', 'default'] })

  await hears(/2\. .*See it/s)
  const phone = await openPage(chromium, url, key, { viewport: PHONE, colorScheme: 'light', isMobile: true })
  await phone.locator('#alerts li').first().waitFor()
  await phone.screenshot({ path: `${images}phone.png` })
  await page.goto('/dashboard/alerts')
  const alert = page.getByRole('article').filter({ hasText: 'old-relay' })
  while ((await alert.count()) === 0) {
    await delay(500)
    await page.reload()
  }
  await alert.getByRole('button', { name: 'I look after it' }).click()

  await hears(/3\. .*See it/s)
  await page.goto('/dashboard/dead-letters')
  await page.screenshot({ path: `${images}dead-letters.png` })
  await page.getByRole('cell').last().getByRole('link').click()
  await page.getByRole('heading', { level: 1, name: /^Message/ }).waitFor()
  await page.screenshot({ path: `${images}message.png` })
}

type Look = { viewport: typeof WIDE; colorScheme: 'light' | 'dark'; isMobile?: boolean }

async function openPage(chromium: Browser, url: string, key: string, look: Look): Promise<Page> {
  const context = await chromium.newContext({ baseURL: url, deviceScaleFactor: 1, ...look })
  const page = await context.newPage()
  await page.goto('/')
  await page.getByLabel('API key').fill(key)
  await page.getByRole('button', { name: 'Sign in' }).click()
  await page.locator('#picture').waitFor()
  return page
}

async function hears(words: RegExp): Promise<RegExpExecArray> {
  for (;;) {
    const heard = words.exec(said)
    if (heard !== null) return heard
    if (demo.exitCode !== null) throw new Error(`the demo ended:\n${said}`)
    await delay(100)
  }
}

async function put(url: string, key: string, body: object): Promise<void> {
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  const response = await fetch(url, { method: 'PUT', headers, body: JSON.stringify(body) })
  if (!response.ok) throw new Error(await response.text())
}
