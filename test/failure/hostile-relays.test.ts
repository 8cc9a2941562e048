import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { eventually } from '../support/eventually.ts'
import { post, readMessage, untilStatus } from '../support/messages.ts'
import { startAbsentRelay } from '../support/relay.ts'
import { startTestService, type TestService } from '../support/service.ts'
import { type RawStep, startRawSmtp, startSmtpSink } from '../support/smtp-sink.ts'
import { ATTEMPTS, encrypt, gotIt, type LaneKind, politeOf, ROWS, type Row } from './relay-misdeeds.ts'

/** Long enough for a busy machine to come to what a relay does before the time is over. */
const TIMEOUTS = 'connect_timeout_s=3&greeting_timeout_s=2.5&socket_timeout_s=2.5'

/** A relay with a provider and a stream of its own, for one row at a time. */
type Lane = {
  readonly name: string
  readonly kind: LaneKind
  readonly url: string
  copies: number
  /** What the next connection is in for. */
  next: () => readonly RawStep[]
  /** Ends every connection that is still open. */
  hangUp: () => Promise<void>
}

async function startLane(t: TestContext, kind: LaneKind, number: number): Promise<Lane> {
  const open = new Set<Socket>()
  const keep = (socket: Socket) => open.add(socket)
  const countCopy = () => {
    lane.copies += 1
  }
  const encrypted = await startSmtpSink(t, { tls: 'starttls', onMail: () => countCopy() as undefined })
  const replaced = new Map<RawStep, RawStep>([
    [gotIt, countCopy],
    [encrypt, passTo(encrypted.host)],
  ])
  const raw = await startRawSmtp(t, () => [keep, ...lane.next().map((step) => replaced.get(step) ?? step)])
  const lane: Lane = {
    name: `${kind}${number}`,
    kind,
    url: urlOf(kind, raw.url.slice('smtp://'.length)),
    copies: 0,
    next: () => politeOf(kind),
    hangUp: () => {
      for (const socket of open) socket.destroy()
      open.clear()
      return raw.waitUntilQuiet()
    },
  }
  return lane
}

function urlOf(kind: LaneKind, host: string): string {
  if (kind === 'auth') return `smtp://user:pass@${host}?tls=none&${TIMEOUTS}`
  if (kind === 'tls') return `smtp://${host}?tls=required&tls_verify=false&${TIMEOUTS}`
  return `smtp://${host}?${TIMEOUTS}`
}

function passTo(host: string): RawStep {
  return (socket) => {
    const there = connect(Number(host.split(':')[1]), '127.0.0.1')
    there.on('error', () => socket.destroy())
    socket.on('close', () => there.destroy())
    socket.pipe(there).pipe(socket)
  }
}

async function addProvider(database: TestDatabase, name: string, onUnknown: 'retry' | 'hold'): Promise<void> {
  await database.query(
    `insert into mail.provider (name, transport, credentials_env, breaker_run, breaker_volume)
     values ($1, 'smtp', 'RELAY_' || upper($1), 1000, 1000000)`,
    [name],
  )
  await database.query(
    `insert into mail.stream (name, route, on_unknown, attempts, backoff_base_s, backoff_factor, backoff_cap_s, slots)
     values ($1, array[$1], $2, $3, 1, 1, 1, 2)`,
    [name, onUnknown, ATTEMPTS],
  )
}

async function timelineOf(database: TestDatabase, id: string): Promise<{ words: string; tookS: number }> {
  const rows = await database.query<{ word: string; at: Date }>(
    `select concat_ws(' ', type, case when type not in ('sent', 'recipient_sent') then detail ->> 'code' end) as word, at
     from mail.event
     where message_id = $1 and type in ('deferred', 'unreachable', 'unknown', 'recipient_sent', 'recipient_refused', 'sent', 'dead')
     order by at, id`,
    [id],
  )
  const [first, last] = [rows.at(0), rows.at(-1)]
  return {
    words: rows.map(({ word }) => word).join(', '),
    tookS: ((last?.at.getTime() ?? 0) - (first?.at.getTime() ?? 0)) / 1_000,
  }
}

async function countBlocks(database: TestDatabase, provider: string): Promise<number> {
  const rows = await database.query<{ count: number }>(
    "select count(*)::integer as count from mail.provider_event where provider = $1 and type = 'blocked'",
    [provider],
  )
  return rows[0]?.count ?? 0
}

async function checkRow(database: TestDatabase, service: TestService, lane: Lane, row: Row): Promise<void> {
  const polite = politeOf(lane.kind)
  let connections = 0
  lane.copies = 0
  lane.next = () => {
    connections += 1
    return row.always || connections === 1 ? row.script : polite
  }
  const blocksBefore = await countBlocks(database, lane.name)
  // To somebody of its own: who is refused for good gets no more mail.
  const id = await post(service, { to: [`${randomUUID()}@example.net`], ...row.mail, stream: lane.name })
  const end = await eventually(`message ${id} comes to its end`, async () => {
    const message = await readMessage(database, id)
    return message !== undefined && ['sent', 'dead', 'unknown'].includes(message.status) && message
  })
  lane.next = () => polite
  if (row.lingers) await lane.hangUp()
  const { words, tookS } = await timelineOf(database, id)
  assert.equal(words, row.ends)
  assert.equal(lane.copies, row.copies, 'copies at the relay')
  const attempts = words.split(', ').filter((word) => !/^(?:unreachable|recipient)/.test(word)).length
  assert.equal(end.attempts, attempts, 'attempts')
  assert.ok(tookS >= (row.waitsS ?? 0), `it waited ${tookS} s`)

  const next = await post(service, { stream: lane.name })
  await untilStatus(database, next, 'sent')
  await lane.hangUp()
  assert.equal(lane.copies, row.copies + 1, 'the next message, once')
  assert.equal(
    (await countBlocks(database, lane.name)) - blocksBefore,
    row.blocks ? 1 : 0,
    'pauses of the provider',
  )
}

/** As many as there is work for: the rows spend their time waiting. */
const LANES: readonly LaneKind[] = ['retry', 'retry', 'retry', 'retry', 'retry', 'hold', 'auth', 'tls']

test('whatever a relay does, its mail comes to the right end and the next one goes out', {
  timeout: 120_000,
  concurrency: LANES.length + 1,
}, async (t) => {
  const database = await createTestDatabase(t)
  const lanes = await Promise.all(LANES.map((kind, number) => startLane(t, kind, number)))
  const sink = await startSmtpSink(t)
  const absent = await startAbsentRelay(t, sink)
  for (const { name, kind } of lanes) await addProvider(database, name, kind === 'hold' ? 'hold' : 'retry')
  await addProvider(database, 'absent', 'retry')
  const service = await startTestService(database, {
    ...Object.fromEntries(lanes.map(({ name, url }) => [`RELAY_${name.toUpperCase()}`, url])),
    RELAY_ABSENT: absent.url,
  })

  const refuses = t.test(
    'a relay that refuses the connection: unreachable connect_failed, sent',
    async () => {
      const id = await post(service, { stream: 'absent' })
      const refused = await eventually('the message has met nobody', async () => {
        const message = await readMessage(database, id)
        return message?.last_error === 'connect_failed' && message
      })
      assert.deepEqual([refused.status, refused.attempts], ['deferred', 0])
      await absent.appear()
      assert.equal((await untilStatus(database, id, 'sent')).attempts, 1)
      assert.equal(sink.mails.length, 1)
    },
  )
  const queues = Map.groupBy(ROWS, (row) => row.lane ?? 'retry')
  const work = lanes.map(async (lane) => {
    const queue = queues.get(lane.kind) ?? []
    for (let row = queue.shift(); row !== undefined; row = queue.shift()) {
      const { does, ends } = row
      const own = row
      await t.test(`a relay that ${does}: ${ends}${lane.kind === 'hold' ? ' (held)' : ''}`, () =>
        checkRow(database, service, lane, own),
      )
    }
  })
  await Promise.all([refuses, ...work])
})
