import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { Client } from 'pg'
import { startDemo } from './support/demo.ts'
import { eventually } from './support/eventually.ts'

const ORDERS = 2_000
const BROKEN = ORDERS / 10
const PATIENCE_MS = 120_000

type Row = Readonly<Record<string, unknown>>
type Psql = (statement: string, parameters?: readonly unknown[]) => Promise<Row[]>

test('a person on call goes from alerts to causes to repairs with psql alone', async (t) => {
  const demo = await startDemo(t, ORDERS)
  const { asOperator, asOwner } = await openPsql(t, demo.databaseUrl)
  demo.begin()

  await demo.says('See it:')
  const lag = await alertOf(asOperator, 'lag', 'dispatch orders api')
  assert.match(String(lag.what), /messages wait in dispatch of orders to api/)
  const [api] = (await asOperator(String(lag.command))).filter((row) => row.provider === 'api' && row.status)
  assert.ok(api, 'the command of the alert shows the provider')
  await untilRow(
    asOperator,
    "select from mail.provider_event where provider = 'api' and reason ~ 'throttled'",
  )
  const [waiting] = await asOperator(
    "select mail.why(id) as why from mail.message where stream = 'orders' and status = 'queued' limit 1",
  )
  assert.match(String(waiting?.why), /api/)
  // Where mail goes is not an operator's to change.
  await assert.rejects(asOperator("update mail.stream set route = '{api,default}' where name = 'orders'"), {
    code: '42501',
  })
  await asOwner("update mail.stream set route = '{api,default}' where name = 'orders'")

  await demo.says('2. A relay fails')
  const breaker = await alertOf(asOperator, 'breaker_open', 'old-relay')
  const looked = await asOperator(String(breaker.command))
  assert.ok(looked.some(({ type }) => type === 'breaker_opened'))
  assert.ok(looked.some(({ reason }) => /421|out of disk space|connect/i.test(String(reason))))
  await asOperator('select mail.acknowledge($1)', [breaker.id])
  await untilRow(
    asOperator,
    "select from mail.provider_status where provider = 'old-relay' and breaker = 'closed'",
  )

  await demo.says('mail.dlq_retry')
  const dead = await alertOf(asOperator, 'dead_letters', 'orders')
  const [cause] = await asOperator(String(dead.command))
  assert.deepEqual(
    [Number(cause?.messages), cause?.stage, cause?.code, cause?.template, cause?.template_version],
    [BROKEN, 'processing', 'template_missing_variable', 'order-confirmation', 2],
  )
  const [one] = await asOperator('select mail.why($1) as why', [cause?.sample_id])
  assert.match(String(one?.why), /customer\.address/)
  await asOwner(`
    insert into mail.template_version (template_id, version, subject, html, text, sender, published_at)
    select v.template_id, 3, v.subject, v.html, v.text, v.sender, now()
    from mail.template t join mail.template_version v on v.template_id = t.id and v.version = 1
    where t.name = 'order-confirmation'`)
  await asOperator('select mail.dlq_retry($1::uuid)', [cause?.sample_id])
  await untilRow(asOperator, `select from mail.message where id = '${cause?.sample_id}' and status = 'sent'`)
  await asOperator(`select mail.dlq_retry('{"template": "order-confirmation"}', 10000)`)

  const { said, code } = await demo.ended()
  assert.match(said, /lost 0, duplicated 0, not sent 0/)
  assert.equal(code, 0, said)
})

/** Two sessions as a team has them: that of the person on call, and that of whoever owns the schema. */
async function openPsql(t: TestContext, url: string): Promise<{ asOperator: Psql; asOwner: Psql }> {
  const sessions = await Promise.all(
    ['set role mail_operator', 'reset role'].map(async (role) => {
      const client = new Client({ connectionString: url })
      // The demo takes its server away at the end.
      client.on('error', () => undefined)
      await client.connect()
      t.after(() => client.end().catch(() => undefined))
      await client.query(role)
      return client
    }),
  )
  const [asOperator, asOwner] = sessions.map(
    (client): Psql =>
      async (statement, parameters) => {
        const results: unknown = await client.query(statement, parameters && [...parameters])
        // Commands of alerts are several statements, as psql takes them.
        return [results].flat().flatMap((result) => (result as { rows: Row[] }).rows)
      },
  )
  assert.ok(asOperator && asOwner)
  return { asOperator, asOwner }
}

async function alertOf(asOperator: Psql, rule: string, subject: string): Promise<Row> {
  return untilRow(
    asOperator,
    `select id, what, command from mail.alerts_now where rule = '${rule}' and subject = '${subject}'`,
  )
}

function untilRow(psql: Psql, query: string): Promise<Row> {
  return eventually(query, async () => (await psql(query))[0], PATIENCE_MS)
}
