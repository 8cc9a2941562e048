import assert from 'node:assert/strict'
import { before, beforeEach, describe, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { openFeedback, recorder } from './feedback-stage.ts'
import { mailgunCall, postmarkCall, sendGridCall, standardCall } from './proofs.ts'
import { SNS_NOW as NOW, snsMessage } from './sns-signer.ts'

let database: TestDatabase
let stage: Awaited<ReturnType<typeof openFeedback>>

before(async (t) => {
  database = await createTestDatabase(t as Parameters<typeof createTestDatabase>[0])
  stage = await openFeedback(database)
})

beforeEach(async () => {
  stage.clock.nowMs = NOW
  stage.asked.length = 0
  await stage.receiver.finish()
  await database.query('delete from mail.feedback')
  await database.query('delete from mail.webhook_refusal')
  await database.query("delete from pgboss.job where name = 'feedback'")
})

const sns = (changes: Parameters<typeof snsMessage>[0] = {}) => ({
  headers: { 'Content-Type': 'text/plain; charset=UTF-8' },
  body: Buffer.from(JSON.stringify(snsMessage(changes))),
})

/** One good call of each kind, and the same one altered. */
const CALLS = {
  ses: {
    good: sns(),
    altered: { ...sns(), body: Buffer.from(sns().body.toString().replace('Delivery', 'Bounce')) },
  },
  sendgrid: { good: sendGridCall('[{"event":"open"}]', NOW), altered: undefined },
  mailgun: {
    good: mailgunCall({ event: 'opened' }, NOW),
    altered: mailgunCall({}, NOW, { secret: 'forged' }),
  },
  postmark: { good: postmarkCall({ RecordType: 'Open' }), altered: postmarkCall({}, 'postmark:guessed') },
  resend: { good: standardCall('{"type":"email.opened"}', NOW), altered: undefined },
  generic: { good: standardCall('{"events":[]}', NOW, { prefix: 'webhook' }), altered: undefined },
} as const

async function stored(): Promise<{ endpoint: string; kind: string; body: Buffer; state: string }[]> {
  return database.query('select endpoint, kind, body, state from mail.feedback order by id')
}

async function jobs(): Promise<number> {
  const rows = await database.query("select from pgboss.job where name = 'feedback'")
  return rows.length
}

async function answerOf(response: Response): Promise<[number, string]> {
  return [response.status, await response.text()]
}

for (const [kind, { good, altered }] of Object.entries(CALLS)) {
  describe(kind, () => {
    test('a delivery with a right proof is kept to the byte, with a job, and a repeat only once', async () => {
      assert.equal((await stage.post(`/webhooks/${kind}/${kind}`, good)).status, 200)
      assert.equal((await stage.post(`/webhooks/${kind}/${kind}`, good)).status, 200)
      const rows = await stored()
      assert.deepEqual(
        rows.map((row) => [row.endpoint, row.kind, row.state, Buffer.compare(row.body, good.body)]),
        [[kind, kind, 'waiting', 0]],
      )
      assert.equal(await jobs(), 1)
    })

    test('forged, altered and bare ones get one and the same 401, and leave nothing but a count', async () => {
      const bad = altered ?? { ...good, body: Buffer.concat([good.body, Buffer.from(' ')]) }
      const bare = { headers: {}, body: Buffer.from('{"event-data":{},"signature":{}}') }
      const answers = await Promise.all(
        [bad, bare, { headers: good.headers, body: Buffer.from([0, 255, 254]) }]
          // Credentials prove whoever sends them, whatever they send.
          .filter((call) => kind !== 'postmark' || call.headers !== good.headers)
          .map(async (call) => answerOf(await stage.post(`/webhooks/${kind}/${kind}`, call))),
      )
      const [first] = answers
      assert.equal(first?.[0], 401)
      for (const answer of answers) assert.deepEqual(answer, first)
      assert.deepEqual(await stored(), [])
      await stage.receiver.finish()
      const [row] = await database.query<{ refused: string }>(
        'select sum(refused) as refused from mail.webhook_refusal where endpoint = $1',
        [kind],
      )
      assert.equal(Number(row?.refused), answers.length)
    })

    test('an endpoint that does not exist, or is of another kind, is not found', async () => {
      const other = kind === 'resend' ? 'generic' : 'resend'
      for (const path of [
        `/webhooks/${kind}/nothing`,
        `/webhooks/${other}/${kind}`,
        `/webhooks/pigeon/${kind}`,
      ]) {
        assert.equal((await stage.post(path, good)).status, 404, path)
      }
      assert.deepEqual(await stored(), [])
    })

    test('an expired delivery is refused, and 1 MiB is the most of a body', async () => {
      stage.clock.nowMs = NOW + 2 * 86_400_000
      const late = await stage.post(`/webhooks/${kind}/${kind}`, good)
      assert.equal(late.status, kind === 'postmark' ? 200 : 401)
      const huge = { ...good, body: Buffer.alloc(1_048_577, 32) }
      assert.equal((await stage.post(`/webhooks/${kind}/${kind}`, huge)).status, 413)
      assert.equal((await stored()).length, kind === 'postmark' ? 1 : 0)
    })
  })
}

test('a Mailgun token counts once: an observed one with another body is answered and changes nothing', async () => {
  const first = mailgunCall({ event: 'delivered' }, NOW)
  const replayed = mailgunCall({ event: 'failed', severity: 'permanent' }, NOW)
  assert.equal((await stage.post('/webhooks/mailgun/mailgun', first)).status, 200)
  assert.equal((await stage.post('/webhooks/mailgun/mailgun', replayed)).status, 200)
  assert.deepEqual(
    (await stored()).map(({ body }) => body),
    [first.body],
  )
})

test('what was refused is told to the operator: how often, and why last', async () => {
  const call = standardCall('{}', NOW - 600_000)
  for (const _ of [1, 2, 3]) assert.equal((await stage.post('/webhooks/resend/resend', call)).status, 401)
  await stage.receiver.finish()
  const [row] = await database.query("select * from mail.webhook_status where endpoint = 'resend'")
  assert.partialDeepStrictEqual(row, {
    path: '/webhooks/resend/resend',
    refused: '3',
    last_refusal: 'timestamp_outside_tolerance',
  })
})

describe('SNS', () => {
  test('an unlisted topic and a certificate from elsewhere are refused, and nobody is asked anything', async () => {
    for (const changes of [
      { TopicArn: 'arn:aws:sns:eu-west-1:666666666666:mail-events' },
      { SigningCertURL: 'https://evil.example/SimpleNotificationService-00.pem' },
      { SigningCertURL: 'http://169.254.169.254/latest/meta-data/' },
      { Type: 'SubscriptionConfirmation', TopicArn: 'arn:aws:sns:eu-west-1:666666666666:x' },
    ]) {
      assert.equal((await stage.post('/webhooks/ses/ses', sns(changes))).status, 401)
    }
    assert.deepEqual(stage.asked, [])
    assert.deepEqual(await stored(), [])
  })

  test('a subscription to a listed topic is confirmed at the pinned host, whatever its SubscribeURL', async () => {
    const wish = sns({ Type: 'SubscriptionConfirmation' })
    assert.match(wish.body.toString(), /"SubscribeURL":"https:\/\/evil\.example/)
    assert.equal((await stage.post('/webhooks/ses/ses', wish)).status, 200)
    assert.deepEqual(
      stage.asked.filter((url) => !url.endsWith('.pem')).map((url) => new URL(url).host),
      ['sns.eu-west-1.amazonaws.com'],
    )
    assert.deepEqual(await stored(), [])
  })
})

describe('a secret', () => {
  test('that is not set, or is none, puts deliveries off so that nothing is lost', async () => {
    await database.query(
      `insert into mail.webhook_source (name, kind, secrets_env)
       values ('unset', 'resend', 'NOT_SET'), ('odd', 'sendgrid', 'MAILGUN_KEY')`,
    )
    for (const [path, call] of [
      ['/webhooks/resend/unset', CALLS.resend.good],
      ['/webhooks/sendgrid/odd', CALLS.sendgrid.good],
    ] as const) {
      const response = await stage.post(path, call)
      assert.deepEqual([response.status, response.headers.get('Retry-After')], [503, '10'])
    }
    await stage.receiver.finish()
    const reasons = await database.query('select endpoint, reason from mail.webhook_refusal order by 1')
    assert.deepEqual(reasons, [
      { endpoint: 'odd', reason: 'secret_unusable' },
      { endpoint: 'unset', reason: 'secret_not_set' },
    ])
  })
})

test('a source that is deleted is not found within a second', async () => {
  await database.query(
    "insert into mail.webhook_source (name, kind, secrets_env) values ('brief', 'resend', 'RESEND_SECRET')",
  )
  assert.equal((await stage.post('/webhooks/resend/brief', CALLS.resend.good)).status, 200)
  await database.query("delete from mail.webhook_source where name = 'brief'")
  stage.clock.nowMs += 1_000
  assert.equal((await stage.post('/webhooks/resend/brief', CALLS.resend.good)).status, 404)
})

test('many at once are stored in few batches, each once, and become events', async () => {
  const seen = recorder()
  const calls = Array.from({ length: 200 }, (_, n) =>
    standardCall(`{"type":"email.opened","data":{"email_id":"${n}"}}`, NOW, { id: `msg_${n}` }),
  )
  const forged = calls
    .slice(0, 50)
    .map((call) => ({ ...call, body: Buffer.from('{"type":"email.bounced"}') }))
  // Each of them three times, in an order that is no order.
  const all = [...calls, ...calls, ...forged, ...calls].sort((a, b) => a.body.compare(b.body))
  const answers = await Promise.all(
    all.map(async (call) => (await stage.post('/webhooks/resend/resend', call)).status),
  )
  assert.deepEqual(
    [answers.filter((status) => status === 200).length, answers.filter((status) => status === 401).length],
    [600, 50],
  )
  assert.equal((await stored()).length, 200)
  assert.ok((await jobs()) < 100, 'a job is a batch')
  stage.startLoop(seen.applyFeedback)
  await eventually('all are applied', async () => (await stored()).every(({ state }) => state === 'applied'))
  assert.equal(seen.told.length, 200)
  assert.equal(new Set(seen.told.map(({ match }) => match.providerMessageId)).size, 200)
  assert.equal(await jobs(), 0)
})
