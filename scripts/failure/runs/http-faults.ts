import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  STAND_IN_AWS,
  STAND_IN_DOMAIN,
  STAND_IN_KEY,
  STAND_IN_REGION,
  type StandInProvider,
} from '../../../test/support/provider-rules.ts'
import { untilDrained } from '../drain.ts'
import { type HostileApi, startHostileApi } from '../http/hostile-api.ts'
import {
  ASKS_FOR_YEARS,
  type JudgedMisdeed,
  LOST,
  misdeedsOf,
  SECRETS,
  UNREADABLE,
} from '../http/misdeeds.ts'
import {
  addLanes,
  Faults,
  handOverTo,
  type ProviderLane,
  untilAllMet,
  variableOf,
} from '../provider-lanes.ts'
import { failureRun, type Scene } from '../run.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'
import { attemptsIn, readTimelines, type Timeline } from '../timelines.ts'
import { watchVitals } from '../vitals.ts'

type Database = Awaited<ReturnType<typeof startPostgres>>
type Lane = ProviderLane & { readonly provider: StandInProvider; readonly credentials: string }
type Played = { readonly lane: Lane; readonly api: HostileApi; readonly misdeeds: readonly JudgedMisdeed[] }
/** Ids by key. */
type Victims = ReadonlyMap<string, string>

const KEYED = { credentials: STAND_IN_KEY }
const LANES: readonly Lane[] = [
  {
    name: 'ses',
    provider: 'ses',
    transport: 'ses',
    credentials: `${STAND_IN_AWS.id}:${STAND_IN_AWS.secret}`,
    options: { region: STAND_IN_REGION },
  },
  { name: 'sendgrid', provider: 'sendgrid', transport: 'sendgrid', ...KEYED },
  {
    name: 'mailgun',
    provider: 'mailgun',
    transport: 'mailgun',
    ...KEYED,
    options: { domain: STAND_IN_DOMAIN },
  },
  { name: 'postmark', provider: 'postmark', transport: 'postmark', ...KEYED },
  { name: 'resend', provider: 'resend', transport: 'resend', ...KEYED },
]
/** Out of reach at first: what their messages meet there, and where they find it. */
const ASTRAY = [
  { name: 'nodns', code: 'dns_failed', baseUrl: () => 'https://nowhere.invalid' },
  { name: 'untrusted', code: 'tls_failed', baseUrl: (tls: HostileApi) => tls.url },
] as const
/** The only addresses that the stand-ins take mail from. */
const SENDER = 'Shop <shop@shop.test>'
/** Batches meet what any of their messages is in for: none of them may be used up by the others. */
const ATTEMPTS = 500
const BACKOFF_S = 1
/** Beyond the client's 60 s for a request, and as long again for messages that are sent in turn. */
const WEDGED_S = 150
const MEMORY_MB = 300
const HOUR_S = 3_600

export const httpFaults = failureRun({
  name: 'http-faults',
  promise:
    'whatever a provider answers, its mail comes to the right end, is sent twice only when it may have been taken, and no key is told',
  limitMinutes: 30,
  isOfPostgres: false,
  // Of each of 284 misdeeds.
  full: { messages: 4, slots: 100, workers: 2, isPatient: true, isShared: false },
  short: { messages: 1, slots: 20, workers: 1, isPatient: false, isShared: true },
  perform: async (scene, { messages, slots, workers, isPatient, isShared }) => {
    const { ledger } = scene
    const database = await startPostgres(scene)
    const elsewhere = await startElsewhere(scene)
    const played = await Promise.all(
      LANES.map(async (lane, number): Promise<Played> => {
        const share = isShared ? { number, of: LANES.length } : { number: 0, of: 1 }
        const misdeeds = [
          ...misdeedsOf(lane.provider, { elsewhere: elsewhere.url, isPatient, share }),
          ASKS_FOR_YEARS,
        ]
        return { lane, misdeeds, api: await startHostileApi(scene, lane.provider, misdeeds) }
      }),
    )
    const [polite, tls] = await Promise.all([
      startHostileApi(scene, 'resend', []),
      startHostileApi(scene, 'resend', [], true),
    ])
    const astray = ASTRAY.map(({ name, baseUrl }) => ({ name, transport: 'resend', baseUrl: baseUrl(tls) }))
    const environment = {
      SLUICE_ROLES: 'worker',
      ...Object.fromEntries(LANES.map((lane) => [variableOf(lane), lane.credentials])),
      ...Object.fromEntries(ASTRAY.map((lane) => [variableOf(lane), STAND_IN_KEY])),
    }
    const services = [await spawnSluice(scene, database.url, environment)]
    const lanes = [...played.map(({ lane, api }) => ({ ...lane, baseUrl: api.url })), ...astray]
    await addLanes(database, lanes, { attempts: ATTEMPTS, backoffS: BACKOFF_S, slots })
    while (services.length < workers) services.push(await spawnSluice(scene, database.url, environment))
    scene.say('lanes are there')
    const vitals = watchVitals(scene, database, services)
    const victims = new Map<Played, Map<string, string>>()
    for (const each of played) {
      const last = each.misdeeds.length - 1
      const places = [...each.misdeeds.keys()].filter((place) => place !== last)
      victims.set(each, new Map(await handOver(scene, database, each.lane.name, places, messages)))
    }
    const lost = await Promise.all(
      ASTRAY.map(async ({ name, code }) => {
        const ids = await handOver(scene, database, name, [0], messages)
        await untilAllMet(database, code, [...ids.values()])
        await database.query('update mail.provider set base_url = $2 where name = $1', [name, polite.url])
        return ids
      }),
    )
    scene.say('those astray are found')
    await untilDrained(database, ledger)
    scene.say('all but one a provider are sent')
    const broken: string[] = []
    for (const each of played) {
      const { keys, fault } = await askForYears(scene, database, each)
      broken.push(...fault)
      for (const [key, id] of keys) victims.get(each)?.set(key, id)
    }
    await untilDrained(database, ledger)
    const { longestSendS, ...memory } = await vitals.finish()

    for (const [each, ids] of victims) broken.push(...(await judgeLane(database, each, ids)))
    for (const [index, ids] of lost.entries()) {
      broken.push(...(await judgeAstray(database, polite, ASTRAY[index]?.code ?? '', ids)))
    }
    broken.push(...(await toldSecrets(database, services.map((service) => service.output()).join())))
    if (tls.requests() > 0) broken.push(`${tls.requests()} requests went to a server that nobody vouches for`)
    if (elsewhere.requests() > 0) broken.push(`${elsewhere.requests()} redirects were followed`)
    if (longestSendS > WEDGED_S) broken.push(`a message was being sent for ${longestSendS} s`)
    if (memory.mostMb > MEMORY_MB) broken.push(`a process took ${memory.mostMb} MB of memory`)
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      // Which misdeed ends how, and how often its mail may have come, is judged mail by mail.
      allowedSetAside: Number.POSITIVE_INFINITY,
      allowedDuplicates: Number.POSITIVE_INFINITY,
      broken,
      figures: {
        misdeeds: played.reduce((sum, { misdeeds }) => sum + misdeeds.length, 0),
        requests: played.reduce((sum, { api }) => sum + api.requests(), 0),
        'longest send s': longestSendS,
        'memory MB settled': memory.settledMb,
        'memory MB most': memory.mostMb,
      },
    }
  },
})

/** Where nothing of ours may ever come. */
async function startElsewhere(scene: Scene): Promise<{ url: string; requests: () => number }> {
  let requests = 0
  const server = createServer((_request, response) => {
    requests += 1
    response.end()
  })
  await once(server.listen(0, '127.0.0.3'), 'listening')
  scene.after(() => server.close())
  return { url: `http://127.0.0.3:${(server.address() as AddressInfo).port}/`, requests: () => requests }
}

function handOver(
  scene: Scene,
  database: Database,
  lane: string,
  places: readonly number[],
  messages: number,
): Promise<Victims> {
  const keys = places.flatMap((place) =>
    Array.from({ length: messages }, (_, n) => `m${place}.${n}@${lane}.example`),
  )
  return handOverTo(scene, database, lane, new Map(keys.map((key) => [key, { from: SENDER }])))
}

/** A pause of years is one of an hour, and a person can end it. */
async function askForYears(
  scene: Scene,
  database: Database,
  { lane, misdeeds, api }: Played,
): Promise<{ keys: Victims; fault: readonly string[] }> {
  const keys = await handOver(scene, database, lane.name, [misdeeds.length - 1], 1)
  await untilAllMet(database, 'throttled', [...keys.values()])
  let seconds = 0
  while (!(seconds > 60)) {
    const [row] = await database.query<{ seconds: number | null }>(
      `select extract(epoch from blocked_until - clock_timestamp())::double precision as seconds
       from mail.provider_state where provider = $1`,
      [lane.name],
    )
    seconds = row?.seconds ?? 0
  }
  // It was to come again after the pause; it goes at once as soon as a person says so.
  await database.query("select mail.resume($1, 'provider')", [lane.name])
  await database.query('select mail.reschedule(id, now()) from unnest($1::uuid[]) id', [[...keys.values()]])
  const isRight = seconds <= HOUR_S && api.encounters.get([...keys.keys()][0] ?? '')?.length === 1
  return { keys, fault: isRight ? [] : [`${lane.name} was left alone for ${seconds} s, an hour is the most`] }
}

async function judgeLane(database: Database, played: Played, victims: Victims): Promise<string[]> {
  const timelines = await readTimelines(database, [...victims.values()])
  const faults = new Faults()
  for (const [key, id] of victims) {
    const timeline = timelines.get(id)
    faults.add(
      key,
      timelineFault(played, key, timeline) ?? copiesFault(played, key, timeline) ?? waitFault(played, key),
    )
  }
  return faults.sentences()
}

/** Exactly what it met, in its order; in a batch also what became of those before it in the same request. */
function timelineFault({ lane, api, misdeeds }: Played, key: string, timeline: Timeline | undefined) {
  const met = (api.encounters.get(key) ?? []).map(({ place }) => misdeeds[place])
  const words = met.flatMap((misdeed) => wordsOf(misdeed))
  const expected = words.at(-1)?.startsWith('dead') ? words : [...words, 'sent']
  const isBatched = lane.provider === 'postmark' || lane.provider === 'resend'
  const cost = (list: readonly string[]) =>
    isBatched ? list.filter((word) => !word.startsWith('unreachable')) : list
  const seen = timeline?.words ?? []
  if (isExplained(cost(seen), cost(expected)) && timeline?.attempts === attemptsIn(seen)) return undefined
  const own = misdeeds[Number(/^m(\d+)/.exec(key)?.[1])]
  return `${lane.name} that ${own?.does}: ${seen.join(', ')} after ${timeline?.attempts} attempts, and not ${expected.join(', ')}`
}

/**
 * A request that crosses the hang-up of its kept connection is as lost as one that is hung up on, at any time; and whoever hangs
 * up behind an answer that cannot be read may be quicker than the answer.
 */
function isExplained(seen: readonly string[], expected: readonly string[]): boolean {
  const [word, ...laterSeen] = seen
  const [wanted, ...laterExpected] = expected
  if (word === undefined) return wanted === undefined
  if (word === wanted && isExplained(laterSeen, laterExpected)) return true
  if (word !== LOST) return false
  return isExplained(laterSeen, expected) || (wanted === UNREADABLE && isExplained(laterSeen, laterExpected))
}

function wordsOf(misdeed: JudgedMisdeed | undefined): string[] {
  if (misdeed?.word === undefined) return []
  // Who stands alone is meant by the whole answer.
  return misdeed.word === 'dead bad_recipient'
    ? ['recipient_refused bad_recipient', misdeed.word]
    : [misdeed.word]
}

function copiesFault(
  { lane, api, misdeeds }: Played,
  key: string,
  timeline: Timeline | undefined,
): string | undefined {
  const met = (api.encounters.get(key) ?? []).map(({ place }) => misdeeds[place])
  const last = met.at(-1)
  // A misdeed without a word is an acceptance; after a refusal for good nothing is sent.
  const isOver = last !== undefined && (last.word === undefined || last.word.startsWith('dead'))
  const wanted = met.filter((misdeed) => misdeed?.keeps).length + (isOver ? 0 : 1)
  const seen = api.copies.get(key) ?? 0
  // A request that crosses a hang-up may have been read or not (see isExplained).
  const isLost = (word: string | undefined) => word === LOST || word === UNREADABLE
  const crossed =
    (timeline?.words.filter(isLost).length ?? 0) - met.filter((misdeed) => isLost(misdeed?.word)).length
  if (seen >= wanted && seen <= wanted + Math.max(0, crossed)) return undefined
  return `${lane.name} that ${last?.does ?? 'does nothing'}: ${seen} copies, and not ${wanted}`
}

function waitFault({ lane, api, misdeeds }: Played, key: string): string | undefined {
  for (const { place, backAfterMs } of api.encounters.get(key) ?? []) {
    const misdeed = misdeeds[place]
    const leastMs = misdeed?.word?.startsWith('dead') ? 0 : (misdeed?.waitsS ?? BACKOFF_S / 2) * 1_000
    if (misdeed === ASKS_FOR_YEARS || backAfterMs === undefined || backAfterMs >= leastMs) continue
    return `${lane.name} that ${misdeed?.does}: it came back after ${backAfterMs} ms, ${leastMs} at least are right`
  }
  return undefined
}

async function judgeAstray(
  database: Database,
  polite: HostileApi,
  code: string,
  victims: Victims,
): Promise<string[]> {
  const faults = new Faults()
  const timelines = await readTimelines(database, [...victims.values()])
  for (const [key, id] of victims) {
    const { words = [], attempts } = timelines.get(id) ?? {}
    const isRight =
      words.at(-1) === 'sent' &&
      attempts === 1 &&
      polite.copies.get(key) === 1 &&
      // Closed under a message when the provider's address is changed.
      words
        .slice(0, -1)
        .every((word) => [`unreachable ${code}`, 'unreachable transport_closed'].includes(word))
    faults.add(
      key,
      isRight
        ? undefined
        : `out of reach with ${code}: ${words.join(', ')} after ${attempts} attempts, ${polite.copies.get(key)} copies`,
    )
  }
  return faults.sentences()
}

/** Credentials in anything that people read, a sentence each. */
async function toldSecrets({ query }: Database, output: string): Promise<string[]> {
  const inLogs = SECRETS.filter((secret) => output.includes(secret)).map(() => 'a key is in the log')
  const found = await query<{ place: string; count: number }>(
    `select place, count(*)::integer as count
     from (
       select 'mail.message' as place, to_jsonb(m)::text as words from mail.message m
       union all select 'mail.event', to_jsonb(e)::text from mail.event e
       union all select 'mail.dead_letter', to_jsonb(d)::text from mail.dead_letter d
       union all select 'mail.provider_event', to_jsonb(p)::text from mail.provider_event p
       union all select 'mail.provider_state', to_jsonb(s)::text from mail.provider_state s
     ) said
     where exists (select from unnest($1::text[]) secret where position(secret in said.words) > 0)
     group by place`,
    [SECRETS],
  )
  return [...inLogs, ...found.map(({ place, count }) => `a key stands in ${count} rows of ${place}`)]
}
