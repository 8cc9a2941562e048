import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import PostalMime from 'postal-mime'
import { createTestDatabase, type TestDatabase } from './support/database.ts'
import { eventually } from './support/eventually.ts'
import { apply, eventOf, openTestPool, statusOf, suppressions } from './support/feedback.ts'
import { deadLetterOf, eventTypesOf, post, untilStatus } from './support/messages.ts'
import { startTestService, type TestService } from './support/service.ts'
import { type SmtpSink, type SunkMail, startSmtpSink } from './support/smtp-sink.ts'
import { headerOf, sluiceIdOf } from './support/sunk-mail.ts'

const PUBLIC_URL = 'https://mail.example.com/sluice'
const ONE_CLICK = 'List-Unsubscribe=One-Click'

let database: TestDatabase
let service: TestService
let sink: SmtpSink

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context)
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url, SLUICE_PUBLIC_URL: `${PUBLIC_URL}/` })
})

/** Sends one message and returns its mail. */
async function mailOf(changes: Readonly<Record<string, unknown>>): Promise<SunkMail> {
  const id = await post(service, { stream: 'marketing', ...changes })
  await untilStatus(database, id, 'sent')
  const mail = sink.mails.find((each) => sluiceIdOf(each) === id)
  assert.ok(mail)
  return mail
}

/** The path of the link in a mail's header, as it is below the public URL. */
function pathIn(mail: SunkMail): string {
  const [, path] =
    /<https:\/\/mail\.example\.com\/sluice(\/u\/[\w-]+)>/.exec(headerOf(mail, 'List-Unsubscribe') ?? '') ?? []
  assert.ok(path, headerOf(mail, 'List-Unsubscribe'))
  return path
}

function visit(path: string, options: RequestInit = {}): Promise<Response> {
  return fetch(new URL(path, service.url), { redirect: 'manual', ...options })
}

/** As a mail program does it: a form of one field, and nothing that says who asks. */
function click(path: string): Promise<Response> {
  return visit(path, { method: 'POST', body: new URLSearchParams({ 'List-Unsubscribe': 'One-Click' }) })
}

async function scopesOf(address: string): Promise<string[]> {
  const listed = await suppressions(database)
  return listed.filter((each) => each.address === address).map(({ scope }) => scope)
}

describe('one click', () => {
  test('takes the address off the stream at once, with evidence and an event, and off nothing else', async () => {
    const mail = await mailOf({ to: ['Leaver@example.net'] })
    const id = sluiceIdOf(mail)
    assert.equal(headerOf(mail, 'List-Unsubscribe-Post'), ONE_CLICK)
    const answer = await click(pathIn(mail))
    assert.equal(answer.status, 200)
    assert.deepEqual([answer.headers.get('set-cookie'), answer.headers.get('location')], [null, null])

    const [listed] = (await suppressions(database)).filter(({ address }) => address === 'leaver@example.net')
    assert.partialDeepStrictEqual(listed, {
      scope: 'marketing',
      origin: 'unsubscribe',
      expires_at: null,
      evidence: { rule: 'unsubscribe', message_id: id },
    })
    const told = await database.query(
      "select recipient, detail ->> 'by' as by from mail.event where message_id = $1 and type = 'unsubscribed'",
      [id],
    )
    assert.deepEqual(told, [{ recipient: 'leaver@example.net', by: 'link' }])
    assert.equal(await statusOf(database, id), 'delivered')

    const next = await post(service, { stream: 'marketing', to: ['leaver@EXAMPLE.net'] })
    await untilStatus(database, next, 'suppressed')
    const receipt = await post(service, { to: ['leaver@example.net'] })
    await untilStatus(database, receipt, 'sent')
  })

  test('takes a multipart form, another body and none at all, and may be repeated', async () => {
    const mail = await mailOf({ to: ['again@example.net'] })
    const path = pathIn(mail)
    const form = new FormData()
    form.set('List-Unsubscribe', 'One-Click')
    for (const body of [form, 'anything', undefined]) {
      const answer = await visit(path, { method: 'POST', ...(body === undefined ? {} : { body }) })
      assert.equal(answer.status, 200)
      assert.match(await answer.text(), /You are unsubscribed/)
    }
    const together = await Promise.all(Array.from({ length: 8 }, () => click(path)))
    assert.deepEqual([...new Set(together.map(({ status }) => status))], [200])
    assert.deepEqual(await scopesOf('again@example.net'), ['marketing'])
    const types = await eventTypesOf(database, sluiceIdOf(mail))
    assert.equal(types.filter((type) => type === 'unsubscribed').length, 1)
  })

  test('works again after somebody put the address back', async () => {
    const path = pathIn(await mailOf({ to: ['back@example.net'] }))
    await click(path)
    await database.query("select mail.unsuppress('back@example.net', 'marketing')")
    assert.deepEqual(await scopesOf('back@example.net'), [])
    await click(path)
    assert.deepEqual(await scopesOf('back@example.net'), ['marketing'])
  })

  test('works when the message left with old mail', async () => {
    const mail = await mailOf({ to: ['late@example.net'] })
    for (const table of ['message', 'message_content', 'message_prepared']) {
      await database.query(`delete from mail.${table} where id = $1`, [sluiceIdOf(mail)])
    }
    assert.equal((await click(pathIn(mail))).status, 200)
    assert.deepEqual(await scopesOf('late@example.net'), ['marketing'])
    assert.deepEqual(await database.query('select * from mail.feedback_unmatched'), [])
  })

  test('never undoes a complaint', async () => {
    const mail = await mailOf({ to: ['angry@example.net'] })
    await apply(openTestPool(database), [eventOf(sluiceIdOf(mail), 'complained')])
    await click(pathIn(mail))
    assert.equal(await statusOf(database, sluiceIdOf(mail)), 'complained')
    assert.deepEqual(await scopesOf('angry@example.net'), ['*', 'marketing'])
  })
})

describe('the page', () => {
  test('asks, and looking at it changes nothing', async () => {
    const mail = await mailOf({ to: ['looker@example.net'] })
    const path = pathIn(mail)
    const page = await visit(path)
    const text = await page.text()
    assert.equal(page.status, 200)
    assert.match(text, /<form method="post">/)
    assert.match(text, /l…@example\.net/)
    assert.doesNotMatch(text, /looker|<script/)
    assert.match(page.headers.get('x-robots-tag') ?? '', /noindex/)
    assert.match(
      page.headers.get('content-security-policy') ?? '',
      /^default-src 'none';.*frame-ancestors 'none'/,
    )
    assert.equal(page.headers.get('referrer-policy'), 'no-referrer')
    assert.equal(page.headers.get('cache-control'), 'no-store')
    for (const method of ['HEAD', 'OPTIONS', 'PUT', 'DELETE', 'PATCH']) {
      const { status } = await visit(path, { method })
      assert.equal(status, { HEAD: 200, OPTIONS: 204 }[method] ?? 405, method)
    }
    assert.deepEqual(await scopesOf('looker@example.net'), [])
    assert.equal(await statusOf(database, sluiceIdOf(mail)), 'sent')
  })

  test('is one and the same for every token that is not ours', async () => {
    const path = pathIn(await mailOf({ to: ['target@example.net'] }))
    const flipped = `${path.slice(0, -2)}${path.at(-2) === 'A' ? 'B' : 'A'}${path.at(-1)}`
    const bad = [
      flipped,
      path.slice(0, -1),
      `${path}x`,
      '/u/x',
      '/u/%00',
      '/u/..%2f',
      `/u/${'A'.repeat(2_000)}`,
    ]
    const answers = await Promise.all(bad.flatMap((each) => [visit(each), click(each)]))
    const pages = await Promise.all(answers.map(async (answer) => `${answer.status} ${await answer.text()}`))
    assert.equal(new Set(pages).size, 1, [...new Set(pages)].join('\n'))
    assert.match(pages[0] ?? '', /^404 [\s\S]*This link does not work/)
    assert.deepEqual(await scopesOf('target@example.net'), [])
  })
})

describe('the header', () => {
  test('is on streams that offer it, with a mailto where there is one', async () => {
    const transactional = await mailOf({ stream: 'transactional' })
    assert.equal(headerOf(transactional, 'List-Unsubscribe'), undefined)
    assert.equal(headerOf(transactional, 'List-Unsubscribe-Post'), undefined)
    const made = await service.request('/streams/letters', {
      method: 'PUT',
      body: { unsubscribe: true, unsubscribe_mailto: 'leave+us&them@example.com' },
    })
    assert.equal(made.status, 200, await made.clone().text())
    const mail = await eventually('the stream is taken', async () => {
      const response = await service.request('/emails', {
        body: {
          from: 'a@example.com',
          to: 'reader@example.net',
          subject: 'Hi',
          text: 'Hi',
          stream: 'letters',
        },
      })
      const { id } = (await response.json()) as { id?: string }
      if (response.status !== 200 || id === undefined) return undefined
      await untilStatus(database, id, 'sent')
      return sink.mails.find((each) => sluiceIdOf(each) === id)
    })
    assert.match(
      headerOf(mail, 'List-Unsubscribe') ?? '',
      /^<https:\S+>, <mailto:leave%2Bus%26them@example\.com\?subject=unsubscribe>$/,
    )
    await click(pathIn(mail))
    assert.deepEqual(await scopesOf('reader@example.net'), ['letters'])

    // Several would unsubscribe one another; the mailto is the same for all.
    const toTwo = await mailOf({ stream: 'letters', to: ['one@example.net'], bcc: ['two@example.net'] })
    assert.match(headerOf(toTwo, 'List-Unsubscribe') ?? '', /^<mailto:/)
    assert.equal(headerOf(toTwo, 'List-Unsubscribe-Post'), undefined)
    const twice = await mailOf({ stream: 'letters', to: ['one@example.net'], cc: ['ONE@example.net'] })
    assert.match(headerOf(twice, 'List-Unsubscribe') ?? '', /^<https:/)
  })

  test('gives way to one of the message’s own', async () => {
    const mail = await mailOf({ headers: { 'list-unsubscribe': '<https://shop.example/leave>' } })
    const head = mail.raw.toString('latin1').split('\r\n\r\n', 1)[0] ?? ''
    assert.deepEqual(head.match(/^list-unsubscribe.*$/gim), [
      'list-unsubscribe: <https://shop.example/leave>',
    ])
    const half = await mailOf({ headers: { 'LIST-Unsubscribe-POST': 'x' } })
    const halfHead = half.raw.toString('latin1').split('\r\n\r\n', 1)[0] ?? ''
    assert.equal(halfHead.match(/^list-unsubscribe-post:/gim)?.length, 1)
    assert.equal(headerOf(half, 'List-Unsubscribe-Post'), ONE_CLICK)
  })
})

async function publish(name: string, content: Readonly<Record<string, unknown>>): Promise<void> {
  const saved = await service.request('/templates', { body: { name, subject: 'News', ...content } })
  assert.equal(saved.status, 200, await saved.clone().text())
  const published = await service.request(`/templates/${name}/publish`, { body: {} })
  assert.equal(published.status, 200, await published.clone().text())
}

function byTemplate(id: string, variables: Readonly<Record<string, unknown>> = {}) {
  return { subject: undefined, html: undefined, text: undefined, template: { id, variables } }
}

test('templates have the link and the postal address, and theirs win over the message’s', async () => {
  await database.query(
    "update mail.stream set postal_address = 'Tea & Sons, 1 Main St' where name = 'marketing'",
  )
  await publish('letter', {
    html: '<a href="{{ unsubscribe_url }}">Leave</a> {{ postal_address }}',
    text: '{{ unsubscribe_url }} {{ postal_address }}',
    strict: true,
  })
  const variables = { unsubscribe_url: 'https://evil.example', postal_address: 'Nowhere' }
  const mail = await eventually('the address is known', async () => {
    const each = await mailOf({ to: ['ann@example.net'], ...byTemplate('letter', variables) })
    return each.raw.includes('Main St') && each
  })
  const { html, text } = await PostalMime.parse(mail.raw)
  const url = `${PUBLIC_URL}${pathIn(mail)}`
  assert.equal(html?.trim(), `<a href="${url}">Leave</a> Tea &amp; Sons, 1 Main St`)
  assert.equal(text?.trim(), `${url} Tea & Sons, 1 Main St`)

  // The stream gives none here, so the message's own is used; a strict template without any fails.
  const own = await mailOf({ stream: 'transactional', ...byTemplate('letter', variables) })
  assert.match((await PostalMime.parse(own.raw)).text ?? '', /^https:\/\/evil\.example Nowhere/)
  const none = await post(service, { stream: 'transactional', ...byTemplate('letter') })
  const { code, reason } = await deadLetterOf(database, none)
  assert.equal(code, 'template_missing_variable')
  assert.match(reason, /unsubscribe_url/)
})

test('a stream that requires a way out or an address lets nothing out without', async (t) => {
  const own = await createTestDatabase(t)
  // No public URL: the stream has no link to give.
  const bare = await startTestService(own, { SMTP_URL: sink.url })
  // In one statement: the service is to know both or neither.
  await own.query(`
    update mail.stream
    set requires_unsubscribe = true,
      requires_postal_address = name = 'marketing',
      postal_address = E'Tea & Sons\\n1 Main St'
    where name in ('marketing', 'alerts')`)
  const shown = { html: '<p>Tea &amp; Sons, 1 Main St</p>', text: 'Tea & Sons, 1 Main St' }
  const withHeader = { headers: { 'List-Unsubscribe': '<mailto:leave@example.com>' } }
  const causeOf = async (changes: Readonly<Record<string, unknown>>) => {
    const { stage, code, reason } = await deadLetterOf(
      own,
      await post(bare, { stream: 'marketing', ...changes }),
    )
    assert.equal(stage, 'processing')
    return `${code}: ${reason}`
  }
  await eventually('the settings are known', async () => {
    const id = await post(bare, { stream: 'marketing' })
    return eventually('it is processed', async () => {
      const [row] = await own.query<{ status: string }>('select status from mail.message where id = $1', [id])
      return row?.status !== 'accepted' && row
    }).then(({ status }) => status === 'dead')
  })
  assert.match(await causeOf(shown), /^no_unsubscribe: .*SLUICE_PUBLIC_URL is not set/)
  assert.match(await causeOf({ stream: 'alerts', ...shown }), /^no_unsubscribe: .*its column unsubscribe/)
  assert.match(await causeOf({ to: ['a@example.net', 'b@example.net'] }), /^no_unsubscribe: .*has several/)
  assert.match(await causeOf(withHeader), /^no_postal_address: .*\{\{ postal_address \}\}/)
  assert.match(await causeOf({ ...withHeader, ...shown, text: 'Hi' }), /^no_postal_address/)

  // What nobody wrote is not asked for: no text part, or one made of the HTML.
  for (const text of [shown.text, '', undefined]) {
    const id = await post(bare, { stream: 'marketing', ...withHeader, html: shown.html, text })
    await untilStatus(own, id, 'sent')
  }

  // A link of the message's own counts where a body shows it.
  const url = 'https://shop.example/leave?a=1&b=2'
  for (const [name, html] of [
    ['linked', '<a href="{{ unsubscribe_url }}">Leave</a> {{ postal_address }}'],
    ['linkless', '{{ postal_address }}'],
  ]) {
    const saved = await bare.request('/templates', { body: { name, subject: 'News', html } })
    assert.equal(saved.status, 200)
    await bare.request(`/templates/${name}/publish`, { body: {} })
  }
  const linked = await post(bare, { stream: 'marketing', ...byTemplate('linked', { unsubscribe_url: url }) })
  await untilStatus(own, linked, 'sent')
  assert.match(await causeOf(byTemplate('linkless', { unsubscribe_url: url })), /^no_unsubscribe/)
  assert.match(await causeOf(byTemplate('linked', { unsubscribe_url: 'here' })), /^no_unsubscribe/)
})

test('settings that make no sense are refused, by the name of the rule', async () => {
  for (const [body, rule] of [
    [{ unsubscribe_mailto: 'not an address' }, /unsubscribe mailto is an address/],
    [{ unsubscribe_mailto: 'a>@example.com' }, /unsubscribe mailto is an address/],
    [{ postal_address: ' , ' }, /postal address has words/],
    [{ requires_postal_address: true }, /a required postal address is given/],
  ] as const) {
    const answer = await service.request('/streams/alerts', { method: 'PUT', body })
    assert.equal(answer.status, 422)
    assert.match(((await answer.json()) as { message: string }).message, rule)
  }
})

test('every process reads the same key, and a second one makes none', async () => {
  const kept =
    "select name, length(value) as length, encode(sha256(value), 'hex') as hash from mail.secret where name = 'unsubscribe'"
  const before = await database.query<{ length: number }>(kept)
  assert.equal(before[0]?.length, 32)
  const path = pathIn(await mailOf({ to: ['shared@example.net'] }))
  const other = await startTestService(database, { SMTP_URL: sink.url, SLUICE_ROLES: 'api' })
  const answer = await fetch(new URL(path, other.url), { method: 'POST' })
  assert.equal(answer.status, 200)
  assert.deepEqual(await scopesOf('shared@example.net'), ['marketing'])
  assert.deepEqual(await database.query(kept), before)
})
