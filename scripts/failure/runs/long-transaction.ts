import { setTimeout as delay } from 'node:timers/promises'
import { Client, Pool } from 'pg'
import { withDatabase } from '../../../test/support/database.ts'
import type { KillablePostgres } from '../../../test/support/killable-postgres.ts'
import { readCpu } from '../../bench/cpu.ts'
import { insertAll } from '../clients.ts'
import { untilDrained } from '../drain.ts'
import { failureRun, type Scene } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'
import { type TableSize, tableSizes } from '../table-sizes.ts'

/** What waits at most: enough that nothing is ever idle, too little to be a backlog. */
const WAITING = 4_000
const FEED = 1_000
const WINDOWS = 20
const TOLD_TABLES = 4

type Scale = {
  readonly messages: number
  /** Of the rate without the transaction, that is left at the end with it; undefined: too few messages to say. */
  readonly leastShare: number | undefined
}

/** Postgres' CPU beside the rate: it says the same on a machine that has other things to do. */
type Stretch = { readonly perS: number; readonly postgresMsEach: number }
type Pass = {
  /** The first and the last fifth. */
  readonly first: Stretch
  readonly last: Stretch
  readonly sizes: readonly TableSize[]
}

/**
 * Somebody forgets a transaction. As long as it is open, vacuum cleans nothing that has ended since, in any table: every row
 * a queue has ever held lies before those that wait. The same messages pass with and without it, one after the other.
 */
export const longTransaction = failureRun<Scale>({
  name: 'long-transaction',
  promise:
    'a transaction that stays open and holds vacuum back loses nothing, and mail goes on at half the usual rate at least',
  limitMinutes: 90,
  full: { messages: 1_000_000, leastShare: 0.5 },
  short: { messages: 200, leastShare: undefined },
  perform: async (scene, { messages, leastShare }) => {
    const server = await startPostgres(scene)
    const sink = await startRecordingSink(scene)
    const pass = (database: string, first: number, isHeld: boolean) =>
      passMessages(scene, server, { database, first, count: messages, isHeld, smtpUrl: sink.url })
    const without = await pass('without', 1, false)
    const held = await pass('held', 1 + messages, true)
    const rateShare = held.last.perS / without.last.perS
    return {
      verdict: scene.ledger.verdict(),
      longestGapS: scene.ledger.longestGapS,
      recoveriesS: [],
      broken:
        leastShare !== undefined && rateShare < leastShare
          ? [`the rate fell to ${rateShare.toFixed(2)} of the usual one, ${leastShare} are promised`]
          : [],
      figures: { ...figuresOf('without', without), ...figuresOf('with', held) },
    }
  },
})

function figuresOf(name: string, { first, last, sizes }: Pass): Record<string, number | string> {
  const dead = sizes.reduce((sum, each) => sum + each.dead, 0)
  const largest = sizes
    .slice(0, TOLD_TABLES)
    .map((each) => `${each.name} ${megabytes(each.tableBytes)}+${megabytes(each.indexBytes)} MB`)
  return {
    [`${name}: messages/s at first`]: Math.round(first.perS),
    [`${name}: at last`]: Math.round(last.perS),
    [`${name}: Postgres ms a message at first`]: first.postgresMsEach,
    [`${name}: Postgres ms a message at last`]: last.postgresMsEach,
    [`${name}: dead rows`]: dead,
    [`${name}: tables + indexes`]: largest.join(', '),
  }
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6)
}

type PassOptions = {
  readonly database: string
  readonly first: number
  readonly count: number
  readonly isHeld: boolean
  readonly smtpUrl: string
}

async function passMessages(scene: Scene, server: KillablePostgres, options: PassOptions): Promise<Pass> {
  const { database, first, count, isHeld, smtpUrl } = options
  const { ledger } = scene
  await server.query(`create database ${database}`)
  const url = withDatabase(server.url, database)
  const sluice = await spawnSluice(scene, url, { SMTP_URL: smtpUrl })
  const pool = new Pool({ connectionString: url, max: 4 })
  const holder = new Client({ connectionString: url, application_name: 'forgotten' })
  await holder.connect()
  scene.after(() => Promise.all([pool.end(), holder.end()]))
  const query = async <Row extends object>(text: string, values?: unknown[]) =>
    (await pool.query(text, values)).rows as Row[]
  // Its snapshot is taken by its first statement.
  if (isHeld) await holder.query('begin isolation level repeatable read; select from mail.stream')

  const before = ledger.delivered
  const done = () => ledger.delivered - before
  const marks = [markOf(server, 0)]
  for (let fed = 0; done() < count; ) {
    const last = marks.at(-1)?.done ?? 0
    if (done() - last >= count / WINDOWS) {
      marks.push(markOf(server, done()))
      const { perS, postgresMsEach } = stretchOf(marks.slice(-2))
      scene.say(
        `${database}, ${done()}: ${Math.round(perS)}/s, Postgres ${postgresMsEach.toFixed(2)} ms each`,
      )
    }
    if (fed < count && fed - done() < WAITING) {
      const some = Math.min(FEED, count - fed)
      await insertAll({ query }, ledger, some, { first: first + fed })
      fed += some
    } else await delay(20)
  }
  marks.push(markOf(server, done()))
  await untilDrained({ query }, ledger)
  const sizes = await tableSizes({ query })
  sluice.process.kill('SIGTERM')
  await sluice.ended
  const fifth = Math.ceil(marks.length / 5)
  return { first: stretchOf(marks.slice(0, fifth + 1)), last: stretchOf(marks.slice(-fifth - 1)), sizes }
}

type Mark = { readonly at: number; readonly done: number; readonly cpuS: number }

function markOf(server: KillablePostgres, done: number): Mark {
  const cpu = readCpu([{ name: 'postgres', pid: server.postmasterPid(), family: true }])
  return { at: performance.now(), done, cpuS: cpu.get('postgres') ?? 0 }
}

function stretchOf(marks: readonly Mark[]): Stretch {
  const [from, to] = [marks[0], marks.at(-1)]
  if (from === undefined || to === undefined || to.done === from.done) return { perS: 0, postgresMsEach: 0 }
  return {
    perS: ((to.done - from.done) * 1_000) / (to.at - from.at),
    postgresMsEach: ((to.cpuS - from.cpuS) * 1_000) / (to.done - from.done),
  }
}
