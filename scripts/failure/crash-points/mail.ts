import type { CrashPoint } from '../../../src/crash-point.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { STAND_IN_KEY } from '../../../test/support/provider-rules.ts'
import { orderMail, type TestService } from '../../../test/support/service.ts'
import { MOVING } from '../drain.ts'
import type { Stage } from './stage.ts'

export type MailWay = {
  /** What a stream says of outcomes that nobody can know. Default retry. */
  readonly onUnknown?: 'retry' | 'hold'
  /** How it is handed over. Default one message to /emails, whose caller waits for a durable answer. */
  readonly door?: 'batch' | 'buffered'
  readonly attachment?: 'inline' | 'by URL'
  /** To go out a moment after it was accepted. */
  readonly isScheduled?: boolean
  /** Over an HTTP API that knows no idempotency keys. */
  readonly isHttp?: boolean
  /** Its provider has a quota. */
  readonly isMetered?: boolean
  /** A second process that dies when the first is dead, while it gives back what that one held. */
  readonly secondDeath?: CrashPoint
}

const LIMIT_MS = 60_000
const TOKENS = 1_000
const TEXT_FILE = Buffer.from('A receipt.').toString('base64')

/**
 * One message, handed over with a key to a process that dies at the point; another goes on, and the caller repeats its
 * request there. Returns what followed, in words.
 */
export async function mailTo(stage: Stage, point: CrashPoint, way: MailWay): Promise<string> {
  const { recipient, theatre } = stage
  const { ledger } = theatre.scene
  await setUp(stage, way)
  const environment = { ...(way.isHttp ? { API_KEY: STAND_IN_KEY } : {}) }
  // A process that is to die in a rescue needs a dead one first.
  const doomed = await stage.spawnDoomed(
    way.secondDeath === undefined ? point : 'smtp.content-sent',
    environment,
  )
  const keys = way.door === 'batch' ? [recipient, `second.${recipient}`] : [recipient]
  for (const key of keys) ledger.attempt(key)
  const request = requestOf(way, keys, theatre.fileUrl)
  const first = await doomed?.request(request.path, request).then(
    (answer) => answer.status,
    () => undefined,
  )
  await doomed?.ended
  if (way.secondDeath !== undefined) await (await stage.spawnDoomed(way.secondDeath, environment))?.ended
  const survivor = await stage.startSurvivor(environment)
  const ids = await repeatUntilAnswered(survivor, request)
  for (const [n, key] of keys.entries()) ledger.acknowledge(key, ids[n] ?? '')
  await eventually('nothing moves any more', () => isAtRest(stage, keys.length), LIMIT_MS)
  return describe(stage, way, keys, ids, first)
}

async function setUp({ database, theatre }: Stage, way: MailWay): Promise<void> {
  const { query } = database
  if (way.onUnknown === 'hold') await query("update mail.stream set on_unknown = 'hold'")
  if (way.isHttp) {
    await query(
      "insert into mail.provider (name, transport, credentials_env, base_url) values ('api', 'postmark', 'API_KEY', $1)",
      [theatre.provider.url],
    )
    await query("update mail.stream set route = '{api}'")
  }
  if (way.isMetered) {
    await query(
      "insert into mail.provider (name, transport, credentials_env) values ('default', 'smtp', 'SMTP_URL')",
    )
    await query(
      `insert into mail.bucket (provider, name, quota, window_s, utilization, burst, reserve)
       values ('default', 'per_year', $1, 31536000, 1, $1, 0)`,
      [TOKENS],
    )
  }
}

type Request = {
  readonly path: string
  readonly body: unknown
  readonly headers: Readonly<Record<string, string>>
}

function requestOf(way: MailWay, keys: readonly string[], fileUrl: string): Request {
  const inline = { filename: 'receipt.txt', content: TEXT_FILE }
  const byUrl = { filename: 'receipt.txt', path: fileUrl }
  const mails = keys.map((to) => ({
    ...orderMail({ to: [to], ...(way.isHttp ? { from: 'shop@shop.test' } : {}) }),
    ...(way.attachment === undefined ? {} : { attachments: [way.attachment === 'inline' ? inline : byUrl] }),
    ...(way.isScheduled ? { scheduled_at: new Date(Date.now() + 2_000).toISOString() } : {}),
  }))
  return {
    path: way.door === 'batch' ? '/emails/batch' : '/emails',
    body: way.door === 'batch' ? mails : mails[0],
    headers: {
      'Idempotency-Key': keys[0] ?? '',
      ...(way.door === 'buffered' ? { 'Sluice-Durability': 'buffered' } : {}),
    },
  }
}

async function repeatUntilAnswered(service: TestService, request: Request): Promise<string[]> {
  return eventually(
    'the repeat is answered',
    async () => {
      const answer = await service.request(request.path, request)
      if (answer.status !== 200) return undefined
      const body = (await answer.json()) as { id?: string; data?: { id: string }[] }
      return body.data?.map(({ id }) => id) ?? [body.id ?? '']
    },
    LIMIT_MS,
  )
}

async function isAtRest({ database }: Stage, count: number): Promise<boolean> {
  const [row] = await database.query<{ at_rest: boolean }>(
    `select count(*) = $1::integer and not exists (select from mail.intake) and not exists (select from mail.outbox)
       and bool_and(status <> all ($2::text[])) as at_rest
     from mail.message`,
    [count, MOVING],
  )
  return row?.at_rest === true
}

type Fact = {
  readonly id: string
  readonly status: string
  readonly attempts: number
  readonly events: string
}

async function describe(
  stage: Stage,
  way: MailWay,
  keys: readonly string[],
  ids: readonly string[],
  first: number | undefined,
): Promise<string> {
  const facts = await stage.database.query<Fact>(
    `select m.id, m.status, m.attempts, (
       select string_agg(e.type, ', ' order by e.at, e.id) from mail.event e where e.message_id = m.id and e.type <> 'replayed'
     ) as events
     from mail.message m order by array_position($1::uuid[], m.id)`,
    [ids],
  )
  const copies = keys.map((key) => copiesOf(stage, way, key))
  const stories = new Set(
    facts.map(({ status, attempts, events }, n) => {
      return `${copies[n]} ${copies[n] === 1 ? 'copy' : 'copies'}, ${status} after ${attempts} ${attempts === 1 ? 'attempt' : 'attempts'} (${events})`
    }),
  )
  const isSame = facts.length === ids.length && facts.every(({ id }, n) => id === ids[n])
  return [
    first === undefined ? 'the connection broke' : `answered ${first}`,
    isSame ? 'the repeat got its id' : 'THE REPEAT GOT ANOTHER ID',
    ...stories,
    ...(way.isMetered ? [`${await tokensUsed(stage)} tokens`] : []),
  ].join('; ')
}

function copiesOf({ theatre }: Stage, way: MailWay, key: string): number {
  if (way.isHttp !== true) return theatre.copiesOf(key)
  const copies = theatre.provider.requests.filter(({ body }) => body.includes(`"${key}"`)).length
  for (let n = 0; n < copies; n += 1) theatre.scene.ledger.deliver(key)
  return copies
}

async function tokensUsed({ database }: Stage): Promise<number> {
  const [row] = await database.query<{ tokens: number }>('select tokens from mail.bucket')
  return TOKENS - Math.round(row?.tokens ?? 0)
}
