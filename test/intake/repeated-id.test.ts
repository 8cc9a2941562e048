import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { orderMail, startTestService } from '../support/service.ts'

test('a row the database refuses becomes a dead letter, and the rows around it go on', async (t) => {
  const database = await createTestDatabase(t)
  await startTestService(database)
  const message = JSON.stringify(orderMail())
  const id = '01a1ff5b-01e3-7030-8e38-6630a4dc9597'
  for (const subject of ['first', 'again']) {
    await database.query('insert into mail.outbox (id, message) values ($1, $2)', [
      id,
      JSON.stringify(orderMail({ subject })),
    ])
    await database.query('insert into mail.outbox (message) values ($1)', [message])
  }
  await eventually('three are sent', async () => {
    const [row] = await database.query<{ sent: string }>(
      "select count(*) as sent from mail.message where status = 'sent'",
    )
    return Number(row?.sent) === 3
  })
  const dead = await database.query<{ code: string; reason: string }>('select code, reason from mail.dlq')
  assert.equal(dead.length, 1)
  assert.equal(dead[0]?.code, 'unstorable')
  assert.match(dead[0]?.reason ?? '', new RegExp(id))
})
