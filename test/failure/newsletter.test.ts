/** One call brings a newsletter of 10,000; it goes out at the provider's pace, and a password reset passes it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { post } from '../support/messages.ts'
import { startTestService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { mostInWindow } from '../support/windows.ts'

const LIMIT = { timeout: 180_000 }
const RECIPIENTS = 10_000
const QUOTA = 100
/** What is left of the quota covers sends that a busy machine makes half a second late. */
const UTILIZATION = 0.5
/** So many are looked at; the others are given up, for at this pace they take minutes. */
const LOOKED_AT = 250

test(
  'a newsletter of 10,000 goes in with one call and out at the set pace, and a password reset overtakes it',
  LIMIT,
  async (t) => {
    const arrivals: { readonly at: number; readonly to: string }[] = []
    const sink = await startSmtpSink(t, {
      onMail: ({ to }) => {
        arrivals.push({ at: performance.now(), to: to[0] ?? '' })
        return undefined
      },
    })
    const database = await createTestDatabase(t)
    const service = await startTestService(database, { SMTP_URL: sink.url })
    const bucket = { name: 'second', quota: QUOTA, utilization: UTILIZATION, burst: 1 }
    const paced = await service.request('/providers/default', { method: 'PUT', body: { buckets: [bucket] } })
    assert.equal(paced.status, 200, await paced.text())

    const made = await service.request('/templates', {
      body: { name: 'newsletter', subject: 'News for {{ name }}', text: 'Hello {{ name }}.' },
    })
    assert.equal(made.status, 200)
    await service.request('/templates/newsletter/publish', { method: 'POST' })
    const response = await service.request('/emails/bulk', {
      body: {
        message: { from: 'News <news@example.com>', template: { id: 'newsletter' } },
        recipients: Array.from({ length: RECIPIENTS }, (_, n) => ({
          to: `reader${n}@example.net`,
          variables: { name: `Reader ${n}` },
        })),
      },
    })
    const answer = (await response.json()) as { accepted: number; data: { id: string }[] }
    assert.deepEqual([response.status, answer.accepted], [200, RECIPIENTS])
    assert.equal(new Set(answer.data.map(({ id }) => id)).size, RECIPIENTS)

    await sink.waitForMails(20)
    const before = arrivals.length
    await post(service, { to: 'forgot@example.net', subject: 'Reset your password', priority: 0 })
    await sink.waitForMails(LOOKED_AT)
    await database.query("select mail.pause('default')")

    const place = arrivals.findIndex(({ to }) => to === 'forgot@example.net')
    assert.ok(place >= before, 'it was sent after the newsletter had begun')
    assert.ok(
      place < LOOKED_AT,
      `the reset is not among the first ${LOOKED_AT} of ${RECIPIENTS + 1}: it waits behind the newsletter`,
    )
    const letters = arrivals.filter(({ to }) => to.startsWith('reader'))
    assert.equal(new Set(letters.map(({ to }) => to)).size, letters.length, 'nobody gets two')
    assert.match(sink.mails[0]?.raw.toString() ?? '', /Subject: News for Reader \d+\r\n/)
    const times = arrivals.map(({ at }) => at)
    const most = mostInWindow(times, 1_000)
    assert.ok(most <= QUOTA, `${most} in one second, ${QUOTA} are allowed`)
    // A busy machine is slower than the pace, and must not fail a test; it cannot be quicker.
    const elapsedS = ((times.at(-1) ?? 0) - (times[0] ?? 0)) / 1_000
    const allowed = elapsedS * QUOTA * UTILIZATION + QUOTA * UTILIZATION
    assert.ok(times.length <= allowed, `${times.length} in ${elapsedS} s, ${allowed} are allowed`)
  },
)
