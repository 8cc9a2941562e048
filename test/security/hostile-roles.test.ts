/** What somebody who holds the password of an app, a reader or an operator can do to the service: nothing of this. */
import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { WORKER_LOCK } from '../../src/db/session.ts'
import { BELL_CHANNEL } from '../../src/queue/bells.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { logInAs } from '../support/login.ts'
import { post, untilStatus } from '../support/messages.ts'
import { orderMail, startTestService, type TestService } from '../support/service.ts'
import { type SmtpSink, startSmtpSink } from '../support/smtp-sink.ts'

const DENIED = { code: '42501' }
const MAIL = JSON.stringify(orderMail())

let database: TestDatabase
let service: TestService
let sink: SmtpSink

before(async (t) => {
  const context = t as Parameters<typeof createTestDatabase>[0]
  sink = await startSmtpSink(context, {
    onRecipient: (address) => {
      if (address.startsWith('refused-')) return { code: 550, text: `5.1.1 <${address}> is not known here` }
      if (address.startsWith('busy-')) return { code: 421, text: `4.7.0 too much mail for ${address}` }
      return undefined
    },
  })
  database = await createTestDatabase(context)
  service = await startTestService(database, { SMTP_URL: sink.url })
})

/** Hands in one good message over the fast door; resolves when it was sent. */
async function assertMailFlows(): Promise<void> {
  const [row] = await database.query<{ id: string }>(
    'insert into mail.intake (message) values ($1) returning id',
    [MAIL],
  )
  await untilStatus(database, row?.id ?? '', 'sent')
}

describe('a session of an app that stays open', () => {
  test('and holds rows of both doors holds up nobody else’s', async () => {
    const app = await logInAs(database, 'mail_enqueue')
    await app.query(`begin; insert into mail.intake (message, priority) values ('${MAIL}', 0)`)
    await app.query(`insert into mail.outbox (message, priority) values ('${MAIL}', 0)`)
    await app.query(`select mail.send('${MAIL}', 'held-open')`)
    await assertMailFlows()
    await app.query('rollback')
  })

  test('and has handed in bytes does not hold up mail that carries the same', async () => {
    const logo = Buffer.from('the logo of everybody')
    const app = await logInAs(database, 'mail_enqueue')
    await app.query('begin')
    await app.query('select mail.attach($1)', [logo])
    const attachments = [{ filename: 'logo.png', content: logo.toString('base64') }]
    const [row] = await database.query<{ id: string }>(
      'insert into mail.outbox (message) values ($1) returning id',
      [JSON.stringify(orderMail({ attachments }))],
    )
    const other = await logInAs(database, 'mail_enqueue')
    await other.query("set statement_timeout = '5s'")
    await other.query('select mail.attach($1)', [logo])
    await untilStatus(database, row?.id ?? '', 'sent')
    const response = await service.request('/emails', { body: orderMail({ attachments }) })
    assert.equal(response.status, 200)
    await assertMailFlows()
    await app.query('commit')
  })
})

describe('advisory locks, which anybody can take,', () => {
  test('keep no process from starting, leading, looking after the intake, or working', async (t) => {
    const fresh = await createTestDatabase(t)
    const names = await fresh.query<{ name: string }>('select name from mail.latch')
    assert.ok(names.length >= 8)
    const app = await logInAs(fresh, 'mail_enqueue')
    for (const name of [...names.map((row) => row.name), 'migrate']) {
      await app.query('select pg_advisory_lock(hashtextextended($1, 0))', [`mail.${name}`])
    }
    await app.query('select pg_advisory_lock($1, n) from generate_series(1, 200) n', [WORKER_LOCK])
    await assert.rejects(app.query("select from mail.latch where name = 'lead' for update"), DENIED)
    const held = await startTestService(fresh, { SMTP_URL: sink.url }, { migratePatienceMs: 0 })
    const response = await held.request('/emails', { body: orderMail() })
    const { id } = (await response.json()) as { id: string }
    await untilStatus(fresh, id, 'sent')
    await eventually(
      'a process leads',
      async () => (await fresh.query('select from mail.leader')).length === 1,
    )
    await eventually('the intake is watched', async () => {
      return (await fresh.query('select from mail.intake_watch')).length === 1
    })
  })
})

describe('a bell that anybody can ring', () => {
  test('is a hint and no more', async () => {
    const app = await logInAs(database, 'mail_reader')
    for (const payload of ['', ' ', 'x', '{"a":1}', `a ${'process.transactional '.repeat(300)}`, '\u0001']) {
      await app.query('select pg_notify($1, $2)', [BELL_CHANNEL, payload])
    }
    await assertMailFlows()
  })
})

/** What Postgres takes for a message from a role that may only append, and a mover must get past. */
const ODD_ROWS: readonly (readonly [what: string, message: string, key?: string])[] = [
  ['nothing of a message', '[]', 'array'],
  ['a scalar', '7', 'scalar'],
  ['null', 'null', 'null'],
  ['digests that are none', '{"digests":"x","to":"a@example.com"}', 'digests'],
  ['digests of nothing', `{"digests":[],${MAIL.slice(1)}`, 'no digests'],
  ['digests of numbers', `{"digests":[1,null,{}],${MAIL.slice(1)}`, 'odd digests'],
  ['what looks sealed', '{"digests":["x"],"sealed":"v1.x.y.z"}', 'sealed'],
  ['sealed as a number', '{"digests":["x"],"clear":{},"sealed":1}', 'sealed number'],
  ['NUL', `{"from":"\\u0000","to":"ann@example.net","subject":"\\u0000","text":"x"}`, 'nul'],
  ['half a surrogate', `{"\\ud800":"\\ud800",${MAIL.slice(1)}`, 'surrogate'],
  ['keys of prototypes', `{"__proto__":{"to":"x"},"constructor":1,${MAIL.slice(1)}`, 'prototype'],
  ['a long number', `{"metadata":{"n":1${'0'.repeat(20_000)}},${MAIL.slice(1)}`, 'number'],
  ['deep nesting', `{"metadata":${'['.repeat(3_000)}${']'.repeat(3_000)},${MAIL.slice(1)}`, 'deep'],
  ['the same key twice', `{"from":"\\u0000",${MAIL.slice(1)}`, 'twice'],
  ['a key of an emoji', MAIL, '\u{1f600}'],
]

describe('a row that nobody expects', () => {
  test('stops neither the mover nor the rows around it', async () => {
    const app = await logInAs(database, 'mail_enqueue')
    for (const [what, message, key] of ODD_ROWS) {
      for (const door of ['intake', 'outbox']) {
        // A second one under the same key is compared with the first.
        for (const _ of [1, 2]) {
          await app
            .query(
              `insert into mail.${door} (message, idempotency_key, stream, source, priority) values ($1, $2, $3, $4, 9)`,
              [message, `${key} ${door}`, 'no such stream; drop table', `${what} \u202e %s $1 '`],
            )
            .catch((error) => assert.match(error.code, /^(22|54)/, what))
          await app.query(`insert into mail.${door} (message, idempotency_key) values ($1, $2)`, [
            message,
            `${key} ${door}`,
          ])
        }
      }
    }
    await assertMailFlows()
    await eventually('both doors are empty', async () => {
      return (await database.query('select from mail.intake union all select from mail.outbox')).length === 0
    })
  })
})

describe('what was written in mail', () => {
  /** The relations in which a role finds one of these words, in any column that it may read. */
  async function foundBy(role: string, words: readonly string[]): Promise<string[]> {
    const relations = await database.query<{ name: string; columns: string }>(
      `select c.oid::regclass::text as name, string_agg(quote_ident(a.attname), ', ') as columns
       from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
       where c.relnamespace in ('mail'::regnamespace, 'pgboss'::regnamespace) and c.relkind in ('r', 'v', 'p', 'm')
         and has_column_privilege($1, c.oid, a.attnum, 'select') and has_schema_privilege($1, c.relnamespace, 'usage')
       group by 1 order by 1`,
      [role],
    )
    const session = await logInAs(database, role)
    const found: string[] = []
    for (const { name, columns } of relations) {
      const { rows } = await session.query<{ row: string }>(
        `select row(${columns})::text as row from ${name}`,
      )
      for (const { row } of rows) {
        const said = words.filter((word) => row.toLowerCase().includes(word))
        found.push(...said.map((word) => `${name}: ${word} in ${row}`))
      }
    }
    if (role !== 'mail_enqueue') assert.ok(relations.length > 20, role)
    return found
  }

  test('bodies are shown to neither operators nor readers, and addresses to no reader', async () => {
    const recipient = 'wordofaddress@example.net'
    const mail = { subject: 'Wordofsubject', html: '<p>wordofbody</p>', text: 'wordofbody', to: recipient }
    const ids = []
    for (const changes of [
      mail,
      { ...mail, to: `refused-${recipient}` },
      { ...mail, to: `busy-${recipient}` },
    ]) {
      ids.push(await post(service, changes))
    }
    const [refused] = await database.query<{ id: string }>(
      'insert into mail.outbox (message) values ($1) returning id',
      [JSON.stringify(orderMail({ ...mail, cc: `${recipient} and more` }))],
    )
    const [sent = '', dead = '', busy = ''] = ids
    await untilStatus(database, sent, 'sent')
    await untilStatus(database, dead, 'dead')
    await untilStatus(database, refused?.id ?? '', 'dead')
    await untilStatus(database, busy, 'deferred')
    await eventually('the relay has asked for silence', async () => {
      return (await database.query("select from mail.provider_event where type = 'blocked'")).length > 0
    })
    const content = ['wordofsubject', 'wordofbody']
    assert.ok(
      (await foundBy('mail_operator', ['wordofaddress'])).length > 0,
      'an operator is shown addresses',
    )
    assert.deepEqual(await foundBy('mail_operator', content), [])
    assert.deepEqual(await foundBy('mail_reader', ['wordofaddress', ...content]), [])
    assert.deepEqual(await foundBy('mail_enqueue', ['wordofaddress', ...content]), [])
    const [letter] = await database.query<{ reason: string }>(
      'select reason from mail.dlq where message_id = $1',
      [dead],
    )
    assert.match(letter?.reason ?? '', /refused-wordofaddress@example\.net/)
    // What others may see of running statements has no values in it.
    const running = await database.query(
      "select query from pg_stat_activity where query ~* 'wordof' and pid <> pg_backend_pid()",
    )
    assert.deepEqual(running, [])
    await database.query("select mail.resume('default', 'provider')")
  })
})
