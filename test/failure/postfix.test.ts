/** A real Postfix as the relay: what it refuses at once, and what it bounces later, each stops the next mail. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, readMessage, untilStatus } from '../support/messages.ts'
import { postfixObstacle, startPostfix } from '../support/postfix.ts'
import { startTestService } from '../support/service.ts'

const DOMAINS = { lateDomain: 'late.test', strictDomain: 'strict.test', bounceDomain: 'bounces.example.com' }
const LOGIN = 'postfix:correct-horse-battery'
/** Postfix runs each part as a process of its own. */
const DEADLINE_MS = 60_000

const obstacle = postfixObstacle()

async function suppressions({ query }: TestDatabase) {
  return query(
    `select address, scope, origin, evidence ->> 'code' as code from mail.suppression order by address`,
  )
}

test('unknown users of a real Postfix are suppressed, whether it refuses them or bounces them later', {
  ...(obstacle === undefined ? {} : { skip: obstacle }),
}, async (t) => {
  const database = await createTestDatabase(t)
  const postfix = await startPostfix(t, DOMAINS)
  const service = await startTestService(database, {
    SMTP_URL: `smtp://${postfix.host}?tls=none`,
    DSN_LOGIN: LOGIN,
  })
  await database.query("update mail.webhook_source set secrets_env = 'DSN_LOGIN' where name = 'dsn'")
  const until = (what: string, look: () => Promise<boolean>) => eventually(what, look, DEADLINE_MS)
  t.after(async (context) => {
    const { passed } = context as { passed?: boolean }
    if (passed !== true) t.diagnostic(await postfix.log())
  })

  // Without a sender of its own for each message, so that its bounce has nowhere to go.
  await untilStatus(database, await post(service, { to: ['ann@late.test'] }), 'sent')
  await service.request('/streams/transactional', {
    method: 'PUT',
    body: { bounce_domain: DOMAINS.bounceDomain },
  })
  await eventually('each message has a sender of its own', async () => {
    await untilStatus(database, await post(service, { to: ['ann@late.test'] }), 'sent')
    return (await postfix.log()).includes(`@${DOMAINS.bounceDomain}>, size=`)
  })

  // Refused at RCPT: dispatch sees it by itself.
  const refused = await post(service, { to: ['nobody-here@strict.test'] })
  await untilStatus(database, refused, 'dead')

  // Taken, and bounced afterwards, while Sluice cannot be reached: Postfix keeps the bounce.
  await postfix.writePipeConfig('url = "http://127.0.0.1:1/webhooks/dsn"\n')
  const bounced = await post(service, { to: ['nobody-here@late.test'] })
  await untilStatus(database, bounced, 'sent')
  await until('the pipe was tried in vain', async () => /status=deferred/.test(await postfix.log()))
  assert.equal((await readMessage(database, bounced))?.status, 'sent')

  await postfix.writePipeConfig(`url = "${service.url}/webhooks/dsn"\nuser = "${LOGIN}"\n`)
  await until('the bounce is known', async () => {
    postfix.flush()
    return (await readMessage(database, bounced))?.status === 'bounced'
  })
  assert.deepEqual(await suppressions(database), [
    { address: 'nobody-here@late.test', scope: '*', origin: 'bounce', code: '5.1.1' },
    { address: 'nobody-here@strict.test', scope: '*', origin: 'bounce', code: '5.1.1' },
  ])
  assert.deepEqual(await database.query('select * from mail.feedback_parked'), [])
  for (const address of ['nobody-here@late.test', 'nobody-here@strict.test']) {
    await untilStatus(database, await post(service, { to: [address] }), 'suppressed')
  }
  await untilStatus(database, await post(service, { to: ['ann@late.test'] }), 'sent')
})
