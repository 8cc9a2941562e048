import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Browser, Locator, Page } from 'playwright-core'
import { assertFits, NO_CHROMIUM, openChromium, openWindow, signIn } from './support/chromium.ts'
import { type Demo, startDemo } from './support/demo.ts'
import { eventually } from './support/eventually.ts'

const ORDERS = 2_000
/** What the demo's template breaks. */
const BROKEN = ORDERS / 10
/** Wait for the provider at once, while the sale is on. */
const MANY = ORDERS / 10
const PATIENCE_MS = 120_000

test('a person on call sees three faults of a sale in the dashboard, finds their causes and repairs them there', {
  skip: NO_CHROMIUM,
}, async (t) => {
  const browser = await openChromium(t)
  const demo = await startDemo(t, ORDERS)
  const { page, faults } = await openWindow(browser, demo.url)
  await signIn(page, demo.key)

  await seeMailPileUp(page, demo)
  await giveTheStreamASecondProvider(page, demo)
  await seeARelayFailAndComeBack(page, demo)
  await findTheBrokenTemplate(page, demo)
  await findAMessage(page)
  await readEveryPageOnAPhone(browser, demo)
  await retryOneWithoutScripts(browser, demo)
  await retryTheOthersByKeyboard(page)

  assert.deepEqual(faults, [])
  // Nothing is left to look at afterwards: the demo ends, and its service with it.
  await page.getByRole('button', { name: 'Retry' }).first().click({ noWaitAfter: true })
  const { said, code } = await demo.ended()
  assert.match(said, /lost 0, duplicated 0, not sent 0/)
  assert.equal(code, 0, said)
})

async function seeMailPileUp(page: Page, demo: Demo): Promise<void> {
  let loads = 0
  page.on('request', (request) => {
    if (request.isNavigationRequest()) loads += 1
  })
  await see(page, 'that no mail waits', async () => (await waitingFor(page, 'api')) === 0)
  demo.begin()
  await see(
    page,
    'the mail that waits for the provider rise',
    async () => (await waitingFor(page, 'api')) > MANY,
  )
  assert.equal(loads, 0, 'the page was loaded again')

  await demo.says('See it:')
  await open(page, laneOf(page, 'api').getByRole('link', { name: 'api' }), 'Provider api')
  await seeRow(page, /throttled/)
}

async function giveTheStreamASecondProvider(page: Page, demo: Demo): Promise<void> {
  await followAlert(page, /messages wait in dispatch of orders to api/)
  await open(page, page.getByRole('rowheader').getByRole('link', { name: 'orders' }), 'Stream orders')
  await page.getByText('Change the route').click()
  await page.getByLabel('Providers in order').fill('api, default')
  await page.getByRole('button', { name: 'Change it' }).click()
  await page.getByText('Done: Mail of stream orders goes to api, then default.').waitFor()

  await goTo(page, 'Overview')
  await see(
    page,
    'what waits fall',
    async () => (await waitingFor(page, 'api')) + (await waitingFor(page, 'default')) < MANY / 2,
  )
  await demo.says('2. A relay fails')
}

async function seeARelayFailAndComeBack(page: Page, demo: Demo): Promise<void> {
  // Open, or looked at again by a probe just now.
  const state = laneOf(page, 'old-relay').locator('.state').first()
  await see(page, 'the breaker open', async () => /breaker open|probing/.test(await state.innerText()))
  await followAlert(page, /breaker of provider old-relay is open/)
  await open(page, page.getByRole('heading').getByRole('link', { name: 'old-relay' }), 'Provider old-relay')
  await seeRow(page, /breaker opened/)

  await goTo(page, 'Alerts')
  await alertCard(page, /breaker of provider old-relay is open/)
    .getByRole('button', { name: 'I look after it' })
    .click()
  await page.getByText(/Done: .* looks after this alert/).waitFor()
  await goTo(page, 'Overview')
  await see(page, 'the breaker closed', async () => (await state.innerText()) === 'well')
  await demo.says('3. A template breaks')
}

async function findTheBrokenTemplate(page: Page, demo: Demo): Promise<void> {
  const deadLetters = page.locator('#picture dl div', { hasText: 'Dead letters' }).locator('dd')
  await see(page, 'dead letters come', async () => numberIn(await deadLetters.innerText()) >= BROKEN)
  await demo.says('mail.dlq_retry')
  await followAlert(page, /\d+ dead letters of stream orders wait for a person/)
  const cause = page.getByRole('row', { name: /template_missing_variable in processing/ })
  assert.match(await cause.innerText(), new RegExp(`${BROKEN}\\b.*order-confirmation version 2`, 's'))
  await cause.getByRole('cell').last().getByRole('link').click()
  await page
    .getByText(/customer\.address/)
    .first()
    .waitFor()

  await goTo(page, 'Templates')
  await open(page, page.getByRole('link', { name: 'order-confirmation' }), 'Template order-confirmation')
  await page.locator('summary', { hasText: 'Roll back' }).click()
  await page.getByRole('button', { name: 'Roll back version 1' }).click()
  await page.getByText('Done: What version 1 holds is published as version 3.').waitFor()
}

async function findAMessage(page: Page): Promise<void> {
  await goTo(page, 'Messages')
  await page.getByLabel('Id or address').fill('customer-7@mail.example')
  await page.getByRole('button', { name: 'Search' }).click()
  await page.getByRole('rowheader').getByRole('link').first().click()
  await page.getByRole('heading', { level: 1, name: /^Message / }).waitFor()
  // Some of the first are tried again a while later.
  await see(page, 'why it does not wait', async () => {
    const why = await page.locator('main .card').first().innerText()
    if (/^sent Not waiting: provider (api|default) accepted it at /.test(why)) return true
    await page.reload()
    return false
  })
  const timeline = await page.getByRole('region', { name: 'What happened', exact: true }).innerText()
  assert.match(timeline, /accepted.*sent/s)
}

async function readEveryPageOnAPhone(browser: Browser, demo: Demo): Promise<void> {
  const viewport = { width: 360, height: 740 }
  const { page, context, faults } = await openWindow(browser, demo.url, { viewport, hasTouch: true })
  await page.goto('/')
  await assertFits(page)
  await signIn(page, demo.key)
  const sections = await page.getByRole('navigation').first().getByRole('link').all()
  const paths = await Promise.all(sections.map((each) => each.getAttribute('href')))
  const links = new Set<string>()
  for (const path of paths.filter((each) => each === '/' || each?.startsWith('/dashboard/'))) {
    await page.goto(path ?? '')
    await assertFits(page)
    const first = page.locator('main :is(th, td, h2, li) a[href^="/dashboard/"]')
    for (const each of (await first.all()).slice(0, 6)) links.add((await each.getAttribute('href')) ?? '')
  }
  assert.ok(links.size >= 6, [...links].join(' '))
  for (const link of links) {
    await page.goto(link)
    await assertFits(page)
  }
  assert.deepEqual(faults, [])
  await context.close()
}

async function retryOneWithoutScripts(browser: Browser, demo: Demo): Promise<void> {
  const { page, context, faults } = await openWindow(browser, demo.url, { javaScriptEnabled: false })
  await signIn(page, demo.key)
  assert.ok((await waitingFor(page, 'api')) < MANY)
  assert.match(await page.locator('#picture').innerText(), new RegExp(`Dead letters\\s+${BROKEN}`))
  await goTo(page, 'Dead letters')
  await page.getByRole('link', { name: /template_missing_variable/ }).click()
  await page
    .getByRole('button', { name: /^Retry [0-9a-f]{8}-/ })
    .first()
    .click()
  await page.getByText(/Done: Message .* is on its way again/).waitFor()
  assert.deepEqual(faults, [])
  await context.close()
}

/** All but one, with Tab, Enter and digits. */
async function retryTheOthersByKeyboard(page: Page): Promise<void> {
  await tabTo(page, page.locator('nav a:focus', { hasText: 'Dead letters' }))
  await page.keyboard.press('Enter')
  await heading(page, 'Dead letters')
  await tabTo(page, page.locator('a:focus', { hasText: 'template_missing_variable' }))
  await page.keyboard.press('Enter')
  await heading(page, `${BROKEN - 1} dead letters`)
  await tabTo(page, page.locator('summary:focus', { hasText: `Retry all ${BROKEN - 1} that match` }))
  await page.keyboard.press('Enter')
  await tabTo(page, page.locator('#retry-max:focus'))
  await page.keyboard.press('ControlOrMeta+a')
  await page.keyboard.type(String(BROKEN - 2))
  await tabTo(page, page.locator('button:focus', { hasText: 'Retry them' }))
  await page.keyboard.press('Enter')
  await page
    .getByText(`Done: ${BROKEN - 2} messages retried, 100 a second. 1 that matches is left.`)
    .waitFor()
}

/** On the page as it stands, which changes by itself. */
async function see(page: Page, what: string, look: () => Promise<boolean>): Promise<void> {
  try {
    await eventually(what, look, PATIENCE_MS)
  } catch (error) {
    throw new Error(`not seen: ${what}. The page says:\n${await page.locator('main').innerText()}`, {
      cause: error,
    })
  }
}

/** On a page that has to be loaded again to see what is new. */
async function seeRow(page: Page, name: RegExp): Promise<void> {
  await see(page, `a row with ${name}`, async () => {
    if ((await page.getByRole('row', { name }).count()) > 0) return true
    await page.reload()
    return false
  })
}

async function tabTo(page: Page, focused: Locator): Promise<void> {
  for (let presses = 0; presses < 80; presses += 1) {
    if ((await focused.count()) > 0) return
    await page.keyboard.press('Tab')
  }
  assert.fail(`no way by Tab to ${focused}`)
}

/** From the overview or the page of alerts to where the alert says to look. */
async function followAlert(page: Page, what: RegExp): Promise<void> {
  await goTo(page, 'Overview')
  await page
    .locator('#alerts li', { hasText: what })
    .getByRole('link', { name: 'What to do' })
    .click({ timeout: PATIENCE_MS })
  await heading(page, 'Alerts')
  await alertCard(page, what).getByRole('link', { name: 'its page' }).click()
}

function alertCard(page: Page, what: RegExp): Locator {
  return page.getByRole('article').filter({ hasText: what })
}

async function goTo(page: Page, section: string): Promise<void> {
  await open(page, page.getByRole('navigation').getByRole('link', { name: section, exact: true }), section)
}

async function open(page: Page, link: Locator, title: string): Promise<void> {
  await link.first().click()
  await heading(page, title)
}

async function heading(page: Page, title: string): Promise<void> {
  await page.getByRole('heading', { level: 1, name: title, exact: true }).waitFor()
}

function laneOf(page: Page, provider: string): Locator {
  return page.locator('.lane').filter({ has: page.getByRole('link', { name: provider, exact: true }) })
}

async function waitingFor(page: Page, provider: string): Promise<number> {
  return numberIn(await laneOf(page, provider).locator('.figure strong').innerText())
}

/** As the dashboard writes them: 987, 1.2 k. */
function numberIn(text: string): number {
  const [, digits = '', unit] = /^([\d.]+)(\sk)?/.exec(text) ?? []
  return Number(digits) * (unit === undefined ? 1 : 1_000)
}
