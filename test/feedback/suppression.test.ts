import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { FeedbackEvent } from '../../src/feedback/event.ts'
import { createTestDatabase } from '../support/database.ts'
import {
  apply,
  eventOf,
  insertMessages,
  openTestPool,
  type StoredMessage,
  suppressions,
} from '../support/feedback.ts'

const DAY = 86_400_000

function daysAgo(days: number): Date {
  return new Date(Date.now() - days * DAY)
}

async function setUp(t: Parameters<typeof createTestDatabase>[0]) {
  const database = await createTestDatabase(t)
  const db = openTestPool(database)
  return {
    database,
    listed: async () =>
      (await suppressions(database)).map(({ address, scope, origin }) => `${origin} ${address} ${scope}`),
    /** A message of its own, and what is told of it. */
    tell: async (
      type: FeedbackEvent['type'],
      changes: Partial<FeedbackEvent> = {},
      message: StoredMessage = {},
    ) => {
      const [id = ''] = await insertMessages(database, [message])
      await apply(db, [eventOf(id, type, { recipient: 'ann@example.net', ...changes })])
      return id
    },
  }
}

const soft = { kind: 'soft', code: '4.2.2', reason: 'Mailbox full' } as const

describe('a hard bounce', () => {
  for (const code of ['5.1.1', '5.1.2', '5.1.3', '5.1.6', '5.1.10', undefined, '5.0.0']) {
    test(`with ${code ?? 'no code'} suppresses the address in every stream at once`, async (t) => {
      const { database, tell } = await setUp(t)
      const bounce = {
        kind: 'hard',
        reason: 'No such user',
        ...(code === undefined ? {} : { code }),
      } as const
      const id = await tell('bounced', { bounce, at: new Date('2026-01-02T03:04:05.678Z') })
      assert.deepEqual(await suppressions(database), [
        {
          address: 'ann@example.net',
          scope: '*',
          origin: 'bounce',
          reason: code === undefined ? 'hard bounce' : `hard bounce ${code}`,
          evidence: {
            rule: 'hard',
            at: '2026-01-02T03:04:05.678Z',
            message_id: id,
            provider: 'default',
            reason: 'No such user',
            ...(code === undefined ? {} : { code }),
          },
          expires_at: null,
        },
      ])
    })
  }

  for (const reason of [
    '550 5.1.1 <policy@example.net> no such user',
    'host mx.antispam.example said: 550 5.1.1 User unknown, see https://example.com/policy',
  ]) {
    test(`suppresses whatever names stand in it: ${reason}`, async (t) => {
      const { tell, listed } = await setUp(t)
      await tell('bounced', { bounce: { kind: 'hard', code: '5.1.1', reason } })
      assert.deepEqual(await listed(), ['bounce ann@example.net *'])
    })
  }

  const OURS: readonly (readonly [NonNullable<FeedbackEvent['bounce']>, string])[] = [
    [{ kind: 'hard', code: '5.7.1', reason: 'Blocked' }, 'a policy code'],
    [{ kind: 'soft', code: '4.7.28', reason: 'Slow down' }, 'a rate code'],
    [{ kind: 'hard', reason: '550 rate limit exceeded' }, 'words about rates'],
    [{ kind: 'hard', reason: 'Message blocked as spam' }, 'words about reputation'],
    [{ kind: 'undetermined', code: '5.1.1' }, 'an undetermined kind'],
    [{ kind: 'hard', code: '5.3.4', reason: 'Too big' }, 'a code of the message'],
  ]
  for (const [bounce, what] of OURS) {
    test(`with ${what} suppresses nobody`, async (t) => {
      const { tell, listed } = await setUp(t)
      await tell('bounced', { bounce })
      assert.deepEqual(await listed(), [])
    })
  }

  test('goes by the codes in mail.suppression_rule, changed live', async (t) => {
    const { database, tell, listed } = await setUp(t)
    await database.query("update mail.suppression_rule set hard_codes = array_append(hard_codes, '5.2.1')")
    await tell('bounced', { bounce: { kind: 'hard', code: '5.2.1' } })
    assert.deepEqual(await listed(), ['bounce ann@example.net *'])
  })

  test('of somebody the message was not sent to suppresses nobody', async (t) => {
    const { tell, listed } = await setUp(t)
    await tell('bounced', { recipient: 'victim@example.net', bounce: { kind: 'hard', code: '5.1.1' } })
    await tell('complained', { recipient: 'victim@example.net' })
    assert.deepEqual(await listed(), [])
  })
})

test('a complaint counts in every stream, an unsubscribe in the one of the message', async (t) => {
  const { tell, listed } = await setUp(t)
  await tell('unsubscribed', {}, { stream: 'marketing' })
  assert.deepEqual(await listed(), ['unsubscribe ann@example.net marketing'])
  await tell('complained', {}, { stream: 'marketing' })
  assert.deepEqual(await listed(), ['complaint ann@example.net *', 'unsubscribe ann@example.net marketing'])
})

describe('soft bounces', () => {
  test('five within 14 days suppress for 30 days from the last', async (t) => {
    const { database, tell, listed } = await setUp(t)
    for (const days of [13, 1, 10, 7]) await tell('bounced', { bounce: soft, at: daysAgo(days) })
    assert.deepEqual(await listed(), [])
    await tell('bounced', { bounce: soft, at: daysAgo(4) })
    const [row] = await suppressions(database)
    assert.equal(row?.origin, 'bounce')
    assert.match(row?.reason ?? '', /^5 soft bounces within 14 days$/)
    assert.equal(row?.evidence?.rule, 'soft')
    assert.equal(Math.round(((row?.expires_at?.getTime() ?? 0) - Date.now()) / DAY), 29)
  })

  test('over a longer time do not', async (t) => {
    const { tell, listed } = await setUp(t)
    for (const days of [17, 13, 9, 5, 1]) await tell('bounced', { bounce: soft, at: daysAgo(days) })
    assert.deepEqual(await listed(), [])
  })

  test('with a delivery between do not, whenever that becomes known', async (t) => {
    const { tell, listed } = await setUp(t)
    for (const days of [6, 5, 4, 3, 2]) await tell('bounced', { bounce: soft, at: daysAgo(days) })
    assert.deepEqual(await listed(), ['bounce ann@example.net *'])
    await tell('delivered', { at: daysAgo(7) })
    assert.deepEqual(await listed(), ['bounce ann@example.net *'], 'a delivery before all of them')
    await tell('delivered', { at: daysAgo(4.5) })
    assert.deepEqual(await listed(), [])
    await tell('bounced', { bounce: soft, at: daysAgo(1) })
    assert.deepEqual(await listed(), [])
    await tell('bounced', { bounce: soft, at: daysAgo(0.5) })
    assert.deepEqual(await listed(), ['bounce ann@example.net *'])
  })

  test('of one message count once, and a person or a complaint is not overruled by them', async (t) => {
    const { database, tell, listed } = await setUp(t)
    const db = openTestPool(database)
    const [id = ''] = await insertMessages(database, [{}])
    await apply(
      db,
      [1, 2, 3, 4, 5].map((days) => eventOf(id, 'bounced', { bounce: soft, at: daysAgo(days) })),
    )
    assert.deepEqual(await listed(), [])
    await tell('complained')
    for (const days of [5, 4, 3, 2]) await tell('bounced', { bounce: soft, at: daysAgo(days) })
    assert.deepEqual(await listed(), ['complaint ann@example.net *'])
  })

  test('expired, the address gets mail again, and may be suppressed again', async (t) => {
    const { database, tell, listed } = await setUp(t)
    await database.query("update mail.suppression_rule set soft_bounces = 2, soft_for = '1 day'")
    for (const days of [3, 2]) await tell('bounced', { bounce: soft, at: daysAgo(days) })
    assert.deepEqual(await listed(), [])
    await tell('bounced', { bounce: soft, at: daysAgo(0.2) })
    assert.deepEqual(await listed(), ['bounce ann@example.net *'])
  })
})

test('somebody taken off the list stays off when old events are told again', async (t) => {
  const { database, listed } = await setUp(t)
  const db = openTestPool(database)
  const [id = ''] = await insertMessages(database, [{}])
  const complaint = eventOf(id, 'complained')
  await apply(db, [complaint])
  await database.query("select mail.unsuppress('ann@example.net')")
  await apply(db, [complaint, eventOf(id, 'opened')])
  assert.deepEqual(await listed(), [])
})

test('many addresses go on the list from psql together, or none when one is none', async (t) => {
  const { database, listed } = await setUp(t)
  await database.query("select mail.suppress('kept@example.net', 'asked', '*')")
  const [row] = await database.query(
    "select mail.suppress_many('{A@example.net, kept@example.net, a@example.net}', 'old list') as listed",
  )
  assert.deepEqual(row, { listed: 2 })
  assert.deepEqual(await listed(), ['import a@example.net *', 'manual kept@example.net *'])
  await assert.rejects(database.query("select mail.suppress_many('{b@example.net, nobody}')"), {
    code: '22023',
  })
  assert.equal((await listed()).length, 2)
})
