import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { eventually } from '../../support/eventually.ts'
import { startTestService, TEST_KEY, type TestService } from '../../support/service.ts'
import { type Browser, openBrowser, plain } from './browser.ts'

const NAUGHTY = `<script>alert("1")</script><img src=x onerror=alert(1)>`

let database: TestDatabase
let service: TestService
let browser: Browser

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  service = await startTestService(database, { SMTP_URL: 'smtp://127.0.0.1:9' })
  browser = openBrowser(service.url ?? '')
  await browser.signIn(TEST_KEY)
})

/** Of a rule that takes long to be sure that it is over: it stays open for this test. */
async function insertAlert(subject: string, what: string, isResolved = false): Promise<string> {
  const [row] = await database.query<{ id: string }>(
    `insert into mail.alert (rule, subject, severity, since, resolved_at, value, worst_value, threshold, what, command, page)
     values ('lag', $1, 'warning', now() - interval '5 minutes', case when $3 then now() end, 1, 1, 0, $2, 'select 1;', '/')
     returning id`,
    [subject, what, isResolved],
  )
  return row?.id ?? ''
}

test('an alert that fires stands at the top of the overview, and in its page with what to do', async () => {
  await database.query("insert into mail.provider_state (provider) values ('default') on conflict do nothing")
  await database.query("select mail.open_breaker('default', 'it is away')")
  const page = await eventually('the breaker has fired', async () => {
    const overview = await browser.page('/')
    return overview.includes('Open alerts') && overview
  })
  assert.match(page, /critical<\/span>.*breaker of provider default is open/s)
  assert.match(page, /\d alerts? (is|are) open\./)
  assert.ok(!page.includes('Provider default: its breaker'), 'it is said once')
  const alerts = await browser.page('/dashboard/alerts')
  assert.match(plain(alerts), /<pre>select \* from mail\.provider_status where provider = 'default'/)
  assert.match(alerts, /Nobody is told of alerts but the log/)
  await database.query("update mail.alert_rule set clear_for_s = 0 where name = 'breaker_open'")
  await database.query("select mail.close_breaker('default')")
  await eventually('it is past', async () => {
    const [open = '', past = ''] = (await browser.page('/dashboard/alerts')).split('<h2>Past</h2>')
    return !open.includes('breaker of provider') && past.includes('breaker of provider default')
  })
})

test('somebody looks after an alert, silences it and lets it speak again, each safe to repeat', async () => {
  const id = await insertAlert('dispatch letters', 'Letters wait.')
  const page = await browser.page('/dashboard/alerts')
  const own = (html: string) => html.slice(html.indexOf(`<article class="card" id="${id}"`))
  for (const _ of [1, 2]) {
    const after = await browser.submit(own(page), '/dashboard/alerts/acknowledge')
    assert.match(after, /Done:<\/strong> bootstrap looks after this alert/)
  }
  assert.match(await browser.page('/'), /bootstrap<\/bdi> looks after it/)
  for (const _ of [1, 2]) {
    const after = await browser.submit(own(page), '/dashboard/alerts/silence', { hours: '8' })
    assert.match(after, /Nobody is told of lag about dispatch letters until/)
    assert.match(own(after), /Silenced until/)
  }
  const silences = await database.query(
    "select 1 from mail.alert_silence where until > now() + interval '7 hours'",
  )
  assert.equal(silences.length, 1)
  const silent = own(await browser.page('/dashboard/alerts'))
  assert.match(await browser.submit(silent, '/dashboard/alerts/unsilence'), /People are told of lag again/)
  assert.match(await browser.submit(silent, '/dashboard/alerts/unsilence'), /This silence is over already/)
})

test('what makes no sense, or comes from an old page, does nothing and says so', async () => {
  const id = await insertAlert('dispatch others', 'Others wait.')
  const page = await browser.page('/dashboard/alerts')
  const own = page.slice(page.indexOf(`<article class="card" id="${id}"`))
  const submit = (action: string, fields: Record<string, string>, status?: number) =>
    browser.submit(own, `/dashboard/alerts/${action}`, fields, status)
  assert.match(await submit('acknowledge', { form_token: 'x' }, 403), /This page is old/)
  assert.match(await submit('acknowledge', { id: 'x' }, 422), /names nothing that could be meant/)
  assert.match(
    await submit('acknowledge', { id: '00000000-0000-7000-8000-000000000000' }),
    /This alert is over already/,
  )
  assert.match(await submit('silence', { hours: '9' }), /Not done:<\/strong> For how long/)
  assert.match(
    await submit('silence', { hours: '1', rule: NAUGHTY }),
    /Not done:<\/strong> There is no alert rule/,
  )
  assert.match(await browser.page('/dashboard/alerts?before=nonsense'), /<h1[^>]*>Alerts/)
})

test('whatever an alert says is text, open and past', async () => {
  await insertAlert(NAUGHTY, `Said ${NAUGHTY}.`)
  await insertAlert(NAUGHTY, `It was ${NAUGHTY}.`, true)
  await eventually('the overview has it', async () =>
    plain(await browser.page('/')).includes(`Said ${NAUGHTY}`),
  )
  for (const path of ['/', '/dashboard/alerts']) {
    const page = await browser.page(path)
    assert.ok(!page.includes('<script>alert') && !page.includes('<img'), path)
    assert.ok(plain(page).includes(NAUGHTY), path)
  }
})
