import { THREAD_HEAP_MB, THREAD_NURSERY_MB } from '../../../src/processing/render/limits.ts'
import { orderMail } from '../../../test/support/service.ts'
import { percentile } from '../../bench/statistics.ts'
import { untilDrained } from '../drain.ts'
import { failureRun, type Scene } from '../run.ts'
import { startRecordingSink } from '../sink.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'
import { watchVitals } from '../vitals.ts'

type Database = Awaited<ReturnType<typeof startPostgres>>
type Poison = {
  readonly does: string
  /** Of a template that this message alone uses; SQL writers publish what the API would refuse. */
  readonly html?: string
  readonly subject?: string
  readonly variables?: Readonly<Record<string, unknown>>
  /** Of the message itself, instead. */
  readonly mail?: Readonly<Record<string, unknown>>
  /** Written into the text of the JSON, which a value cannot say. */
  readonly text?: readonly [from: string, to: string]
  /** As its dead letter is filed. */
  readonly code: string
}

const BIG = 'x'.repeat(250_000)
const POISONS: readonly Poison[] = [
  {
    does: 'loops without end',
    html: `${'{% for i in (1..9999) %}'.repeat(4)}${'{% endfor %}'.repeat(4)}`,
    code: 'template_timeout',
  },
  {
    does: 'keeps its thread from hearing',
    html: `{% # x${'\n'.repeat(60_000)}# %}`,
    code: 'template_timeout',
  },
  {
    does: 'doubles what it captures',
    html: `{% assign a = "x" %}${'{% capture a %}{{a}}{{a}}{% endcapture %}'.repeat(25)}{{ a }}`,
    code: 'template_syntax',
  },
  {
    does: 'doubles what it appends',
    html: `{% assign a = "x" %}${'{% assign a = a | append: a %}'.repeat(40)}{{ a }}`,
    code: 'template_memory',
  },
  {
    does: 'has a date format of 200,000 characters',
    html: '{{ "now" | date: f }}',
    variables: { f: '%d'.repeat(100_000) },
    code: 'template_failed',
  },
  {
    does: 'makes much of its data',
    html: '{{ b | split: "" | join: b }}',
    variables: { b: BIG },
    code: 'template_memory',
  },
  {
    does: 'writes more than a mail may have',
    html: '{% for i in (1..299999) %}{{ b }}{% endfor %}',
    variables: { b: BIG },
    code: 'output_too_large',
  },
  {
    does: 'nests too deeply',
    html: `${'{% if true %}'.repeat(9_000)}x${'{% endif %}'.repeat(9_000)}`,
    code: 'template_too_large',
  },
  { does: 'does not parse', html: '{% if %}{{', code: 'template_syntax' },
  {
    does: 'breaks its subject',
    html: 'x',
    subject: 'a{{ b }}c',
    variables: { b: '\r\nBcc: eve@example.net' },
    code: 'output_invalid',
  },
  {
    does: 'brings 5 MB of data',
    html: '{{ b }}',
    variables: { b: 'x'.repeat(5_000_000) },
    code: 'invalid_message',
  },
  {
    does: 'has a header over the limit',
    mail: { headers: { 'X-Big': 'x'.repeat(100_000) } },
    code: 'invalid_message',
  },
  {
    does: 'holds what jsonb cannot',
    mail: { text: 'NUL' },
    text: ['"NUL"', '"\\u0000"'],
    code: 'invalid_message',
  },
]
/** Of rendering: what can be changed and done again. Of a message: what would have been right. */
const SAYS_WHAT_TO_DO = /\b(?:then retry|send anew)\b|\b(?:must|at most|more than|may|use)\b/i
const GOOD = {
  name: 'good',
  subject: 'Order {{ n }}',
  html: '<h1>Thank you</h1>{% for i in items %}<p>{{ i.name }}: {{ i.price | times: 2 }}</p>{% endfor %}',
}
const ITEMS = Array.from({ length: 10 }, (_, n) => ({ name: `Item ${n}`, price: n }))
/** What a process may take, and once more the heaps of its two render threads while poison is in both. */
const MEMORY_MB = 300 + 2 * (THREAD_HEAP_MB + THREAD_NURSERY_MB)

export const poisonTemplates = failureRun({
  name: 'poison-templates',
  promise:
    'messages that cannot be made a mail of are dead letters with a reason that says what to do, and all others are sent once',
  limitMinutes: 20,
  isOfPostgres: false,
  full: { good: 10_000, poison: 104, rounds: 4 },
  short: { good: 100, poison: 13, rounds: 2 },
  perform: async (scene, { good, poison, rounds }) => {
    const { ledger } = scene
    const database = await startPostgres(scene)
    const sink = await startRecordingSink(scene)
    const service = await spawnSluice(scene, database.url, { SMTP_URL: sink.url, SLUICE_ROLES: 'worker' })
    const vitals = watchVitals(scene, database, [service])
    await publish(database, GOOD.name, GOOD.subject, GOOD.html)
    const broken: string[] = []
    const clean: number[] = []
    const poisoned: number[] = []
    // One round without poison and one with it, in turn, so that both see the same machine.
    for (let round = 0; round < rounds; round += 1) {
      const isPoisoned = round % 2 === 1
      const bad = isPoisoned
        ? await handOverPoison(scene, database, round, Math.ceil((poison * 2) / rounds))
        : new Map()
      const goods = await handOverGood(scene, database, round, Math.ceil(good / rounds))
      await untilDrained(database, ledger)
      const seconds = await secondsToSend(database, goods)
      ;(isPoisoned ? poisoned : clean).push(...seconds)
      if (seconds.length < goods.length)
        broken.push(`${goods.length - seconds.length} good messages were not sent`)
      broken.push(...(await judgePoison(database, bad)))
      scene.say(`round ${round + 1} of ${rounds} is over`)
    }
    const { longestSendS: _longest, ...memory } = await vitals.finish()
    if (memory.mostMb > MEMORY_MB) broken.push(`the worker took ${memory.mostMb} MB of memory`)
    const poisonous = ledger.verdict().attempted - clean.length - poisoned.length
    const [before, beside] = [percentile(clean, 95), percentile(poisoned, 95)]
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      allowedSetAside: poisonous,
      broken,
      figures: {
        poison: poisonous,
        'p95 s of good mail alone': before,
        'beside poison': beside,
        ratio: beside / before,
        'memory MB most': memory.mostMb,
      },
    }
  },
})

async function publish({ query }: Database, name: string, subject: string, html: string): Promise<void> {
  await query(
    `with t as (insert into mail.template (name) values ($1) returning id)
     insert into mail.template_version (template_id, version, subject, html, published_at)
     select id, 1, $2, $3, now() from t`,
    [name, subject, html],
  )
}

async function handOverGood(
  scene: Scene,
  database: Database,
  round: number,
  count: number,
): Promise<string[]> {
  const keys = Array.from({ length: count }, (_, n) => `good${round}.${n}@run.example`)
  const texts = keys.map((key, n) => {
    const template = { id: GOOD.name, variables: { n, items: ITEMS } }
    return [key, JSON.stringify({ ...withoutBodies(key), template })] as const
  })
  return [...(await insert(scene, database, new Map(texts))).values()]
}

/** By id: each kind with templates of its own, which nobody has met before. */
async function handOverPoison(
  scene: Scene,
  database: Database,
  round: number,
  count: number,
): Promise<ReadonlyMap<string, Poison>> {
  const kinds = new Map<string, Poison>()
  const texts = new Map<string, string>()
  for (let n = 0; n < count; n += 1) {
    const poison = POISONS[n % POISONS.length]
    if (poison === undefined) throw new Error('there is no poison')
    const key = `poison${round}.${n}@run.example`
    const { html, subject = 'Poison', variables = {}, mail = {}, text } = poison
    kinds.set(key, poison)
    if (html !== undefined) await publish(database, `poison-${round}-${n}`, subject, html)
    const whole =
      html === undefined
        ? { ...orderMail({ to: [key] }), ...mail }
        : { ...withoutBodies(key), template: { id: `poison-${round}-${n}`, variables } }
    const json = JSON.stringify(whole)
    texts.set(key, text === undefined ? json : json.replace(...text))
  }
  const ids = await insert(scene, database, texts)
  return new Map([...ids].map(([key, id]) => [id, kinds.get(key) as Poison]))
}

function withoutBodies(key: string): Readonly<Record<string, unknown>> {
  return { from: 'Shop <shop@example.com>', to: [key] }
}

/** Texts by key. The key of one that cannot be read cannot be asked for: ids come back in the order of the texts. */
async function insert(
  { ledger }: Scene,
  { query }: Database,
  texts: ReadonlyMap<string, string>,
): Promise<ReadonlyMap<string, string>> {
  const rows = await query<{ id: string }>(
    `insert into mail.outbox (message)
     select text::json from unnest($1::text[]) with ordinality as given (text, place) order by place
     returning id`,
    [[...texts.values()]],
  )
  const ids = new Map([...texts.keys()].map((key, place) => [key, rows[place]?.id ?? '']))
  for (const [key, id] of ids) ledger.acknowledge(key, id)
  return ids
}

async function secondsToSend({ query }: Database, ids: readonly string[]): Promise<number[]> {
  const rows = await query<{ seconds: number }>(
    `select extract(epoch from sent_at - accepted_at)::double precision as seconds
     from mail.message where id = any ($1::uuid[]) and status = 'sent'`,
    [ids],
  )
  return rows.map(({ seconds }) => seconds)
}

async function judgePoison({ query }: Database, poisons: ReadonlyMap<string, Poison>): Promise<string[]> {
  const rows = await query<{ id: string; code: string; reason: string }>(
    'select message_id as id, code, reason from mail.dead_letter where message_id = any ($1::uuid[])',
    [[...poisons.keys()]],
  )
  const letters = new Map(rows.map((row) => [row.id, row]))
  const faults = [...poisons].flatMap(([id, { does, code }]) => {
    const letter = letters.get(id)
    if (letter === undefined) return [`a message that ${does} is no dead letter`]
    if (letter.code !== code)
      return [`a message that ${does} is filed as ${letter.code} (${letter.reason}), and not ${code}`]
    return SAYS_WHAT_TO_DO.test(letter.reason) ? [] : [`"${letter.reason}" does not say what to do`]
  })
  return [...new Set(faults)]
}
