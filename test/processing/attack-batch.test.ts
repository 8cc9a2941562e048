import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { spawnService } from '../support/service.ts'
import { startSmtpSink } from '../support/smtp-sink.ts'
import { ATTACKS } from './template-attacks.ts'

/** Of the whole process, at its highest; without attacks it needs half of this. */
const BOUND_KB = 450 * 1_024
const GOOD = 200

test('attacks among good mail, handed over at once: the mail goes out, each attack is explained, and memory is bounded', async (t) => {
  const database = await createTestDatabase(t)
  const sink = await startSmtpSink(t)
  const service = await spawnService(t, database.url, { SMTP_URL: sink.url })
  const attacks = someOfEachEnding()
  const drafts = [...attacks.map(([, { html }]) => html), '<p>{{ who }}</p>'].map((html, n) => ({
    name: `template-${n}`,
    sender: 'shop@example.com',
    subject: 'Hello',
    html,
    text: 'Hello',
  }))
  // As whoever may write templates by SQL would: not every one of these would pass the door of REST.
  await database.query(
    `with draft as (
       select * from json_to_recordset($1) as draft (name text, sender text, subject text, html text, text text)
     ), made as (
       insert into mail.template (name) select name from draft returning id, name
     )
     insert into mail.template_version (template_id, version, sender, subject, html, text, published_at)
     select id, 1, sender, subject, html, text, now() from draft join made using (name)`,
    [JSON.stringify(drafts)],
  )
  const good = {
    to: 'ann@example.net',
    template: { id: `template-${attacks.length}`, variables: { who: 'Ann' } },
  }
  const bad = attacks.map(([, { variables = {} }], n) => ({
    to: 'mallory@example.net',
    template: { id: `template-${n}`, variables },
  }))
  // Good ones between all the others, so that they share jobs and threads.
  const mails = Array.from({ length: GOOD }, (_, n) => [
    good,
    ...bad.slice(n, n + (n < bad.length ? 1 : 0)),
  ]).flat()
  await database.query('insert into mail.outbox (message) select value from json_array_elements($1)', [
    JSON.stringify(mails),
  ])
  await eventually(
    'all are at an end',
    async () => {
      const rows = await database.query(`select from mail.message where status in ('sent', 'dead')`)
      return rows.length === mails.length
    },
    90_000,
  )
  const arrived = sink.mails.filter(({ to }) => to.includes('ann@example.net'))
  assert.equal(arrived.length, GOOD)
  const letters = await database.query<{ template: string; code: string; reason: string }>(
    'select template, code, reason from mail.dead_letter',
  )
  for (const { template, code, reason } of letters) {
    const [name, attack] = attacks[Number(template.slice('template-'.length))] ?? []
    // On a machine that is busy with other things, time may be up first.
    assert.ok(
      (attack !== undefined && ['any', code].includes(String(attack.ends))) || code === 'template_timeout',
      `${name}: ${code} ${reason}`,
    )
    assert.match(reason, /^The (?:html|template) .{20}/, name)
  }
  const expected = attacks.filter(([, { ends }]) => typeof ends === 'string' && ends !== 'any')
  const dead = new Set(
    letters.map(({ template }) => attacks[Number(template.slice('template-'.length))]?.[0]),
  )
  assert.deepEqual(
    expected.map(([name]) => name).filter((name) => !dead.has(name)),
    [],
  )
  const peakKb = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${service.pid}/status`, 'utf8'))?.[1])
  t.diagnostic(
    `${attacks.length} attacks, ${letters.length} dead letters, at most ${Math.round(peakKb / 1_024)} MB`,
  )
  assert.ok(peakKb < BOUND_KB, `${peakKb} KB`)
})

/** The door refuses data that nest as deep as some have them; partials and what does not parse are tried elsewhere. */
function someOfEachEnding(): (readonly [name: string, (typeof ATTACKS)[string]])[] {
  const taken = new Map<unknown, number>()
  return Object.entries(ATTACKS).filter(([name, { ends, partials }]) => {
    if (ends === 'template_syntax' || partials !== undefined || name === 'deep nesting of data') return false
    const count = (taken.get(ends) ?? 0) + 1
    taken.set(ends, count)
    return count <= 4
  })
}
