import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { STAND_IN_CERTIFICATE } from '../../../test/support/provider-stand-ins.ts'
import { untilDrained } from '../drain.ts'
import { INSPECTED, liveHeapMb } from '../heap.ts'
import { addLanes, Faults, handOverTo, p95ToSendS, untilAllMet, variableOf } from '../provider-lanes.ts'
import { failureRun, type Scene } from '../run.ts'
import { spawnSluice, startPostgres } from '../sluice.ts'
import { type HostileRelay, startHostileRelay } from '../smtp/hostile-relay.ts'
import { LANES, type Lane } from '../smtp/lanes.ts'
import { ATTEMPTS, BACKOFF_S, type Misdeed } from '../smtp/misdeed.ts'
import { attemptsIn, readTimelines, type Timeline } from '../timelines.ts'
import { watchVitals } from '../vitals.ts'

type Database = Awaited<ReturnType<typeof startPostgres>>
/** One message and what it is in for. */
type Victim = { readonly id: string; readonly key: string; readonly misdeed: Misdeed }
type Played = { readonly lane: Lane; readonly relay: HostileRelay }

/** Beyond every timeout of the URLs, twice: an upload and its answer may each take one. */
const WEDGED_S = 60
/** What is left in the heap of a process when all is over: nothing of the mail, or of those who were after it. */
const LEFT_MB = 80
export const smtpFaults = failureRun({
  name: 'smtp-faults',
  promise:
    'whatever a relay does, its mail comes to the right end, is sent twice only after the dot, and no send lasts for ever',
  limitMinutes: 30,
  isOfPostgres: false,
  // Of each of 125 misdeeds.
  full: { messages: 10, slots: 100, workers: 2 },
  short: { messages: 1, slots: 20, workers: 1 },
  perform: async (scene, { messages, slots, workers }) => {
    const { ledger } = scene
    const database = await startPostgres(scene)
    const played = await Promise.all(LANES.map((lane) => startLane(scene, lane, messages)))
    const environment = {
      ...INSPECTED,
      SLUICE_ROLES: 'worker',
      NODE_EXTRA_CA_CERTS: join(database.dataDir, 'stand-in.pem'),
      ...Object.fromEntries(played.map(({ lane, relay }) => [variableOf(lane), urlOf(lane, relay)])),
    }
    writeFileSync(environment.NODE_EXTRA_CA_CERTS, STAND_IN_CERTIFICATE)
    scene.say('relays are there')
    const services = [await spawnSluice(scene, database.url, environment)]
    await addLanes(
      database,
      played.map(({ lane }) => ({ ...lane, transport: 'smtp' })),
      { attempts: ATTEMPTS, backoffS: BACKOFF_S, slots },
    )
    scene.say('lanes are there')
    while (services.length < workers) services.push(await spawnSluice(scene, database.url, environment))
    const vitals = watchVitals(scene, database, services)
    const victims = new Map<Lane, Victim[]>()
    for (const { lane } of played) victims.set(lane, await handOver(scene, database, lane, messages))
    scene.say('all is handed over')
    await untilAllMet(
      database,
      'connect_failed',
      (victims.get(laneCalled('absent')) ?? []).map(({ id }) => id),
    )
    for (const { lane, relay } of played) if (lane.isAbsent) await relay.appear()
    scene.say('the absent relay is there')
    await untilDrained(database, ledger)
    scene.say('all is over')
    const { longestSendS, ...memory } = await vitals.finish()
    const leftMb = Math.max(...(await Promise.all(services.map(liveHeapMb))))

    const broken: string[] = []
    for (const each of played) {
      broken.push(...(await judgeLane(database, each, victims.get(each.lane) ?? [])))
    }
    if (longestSendS > WEDGED_S) broken.push(`a message was being sent for ${longestSendS} s`)
    if (leftMb > LEFT_MB) broken.push(`${leftMb} MB are left in the heap of a process`)
    return {
      verdict: ledger.verdict(),
      longestGapS: ledger.longestGapS,
      recoveriesS: [],
      // Which misdeed ends how is judged lane by lane.
      allowedSetAside: Number.POSITIVE_INFINITY,
      allowedDuplicates: LANES.flatMap(({ misdeeds }) => misdeeds).reduce(
        (sum, { copies }) => sum + Math.max(0, copies - 1) * messages,
        0,
      ),
      broken,
      figures: {
        misdeeds: LANES.reduce((sum, { misdeeds }) => sum + misdeeds.length, 0),
        'done in all': played.reduce((sum, { relay }) => sum + relay.done.reduce((all, n) => all + n, 0), 0),
        'longest send s': longestSendS,
        'left in the heap MB': leftMb,
        'memory MB settled': memory.settledMb,
        'memory MB most': memory.mostMb,
        'beside them, p95 s to send': await p95ToSendS(database, 'well'),
      },
    }
  },
})

async function startLane(scene: Scene, lane: Lane, messages: number): Promise<Played> {
  const { misdeeds, offers = [], isAbsent } = lane
  const rounds = Array.from({ length: messages }, (_, round) =>
    misdeeds.flatMap(({ isOfConnection, atMost = messages }, place) =>
      isOfConnection && round < atMost ? [place] : [],
    ),
  )
  const relay = await startHostileRelay(scene, {
    misdeeds,
    offers,
    badConnections: rounds.flat(),
    ...(isAbsent === undefined ? {} : { isAbsent }),
  })
  return { lane, relay }
}

function laneCalled(name: string): Lane {
  const lane = LANES.find((each) => each.name === name)
  if (lane === undefined) throw new Error(`there is no lane called ${name}`)
  return lane
}

function urlOf({ user = '', parameters }: Lane, { host }: HostileRelay): string {
  return `smtp://${user}${host}?${parameters}`
}

/** The first recipient is the sender as well, by which a relay knows a message at MAIL. */
async function handOver(scene: Scene, database: Database, lane: Lane, messages: number): Promise<Victim[]> {
  const misdeeds = new Map<string, Misdeed>()
  for (const [place, misdeed] of lane.misdeeds.entries()) {
    const count = misdeed.isOfConnection ? messages : Math.min(messages, misdeed.atMost ?? messages)
    for (let n = 0; n < count; n += 1) misdeeds.set(`m${place}.${n}@${lane.name}.example`, misdeed)
  }
  const mails = new Map(
    [...misdeeds].map(([key, { mail, secondCopies }]) => {
      const to = secondCopies === undefined ? [key] : [key, secondOf(key)]
      return [key, { ...mail, from: key, to }]
    }),
  )
  const ids = await handOverTo(scene, database, lane.name, mails)
  return [...misdeeds].map(([key, misdeed]) => {
    const id = ids.get(key) ?? ''
    // One that is refused is in no ledger: a copy of it would be unexpected.
    if (misdeed.secondCopies === 1) scene.ledger.acknowledge(secondOf(key), id)
    return { id, key, misdeed }
  })
}

function secondOf(key: string): string {
  return `second.${key}`
}

/** Each broken promise of a lane as a sentence. */
async function judgeLane(database: Database, played: Played, victims: readonly Victim[]): Promise<string[]> {
  const timelines = await readTimelines(
    database,
    victims.map(({ id }) => id),
  )
  const faults = new Faults()
  for (const victim of victims) {
    const judge = victim.misdeed.isOfConnection ? inTurn : byMessage
    const fault =
      judge(played, victim, timelines.get(victim.id)) ??
      copiesFault(played, victim) ??
      waitFault(played, victim)
    faults.add(victim.key, fault)
  }
  const pauses = await database.query(
    "select from mail.provider_event where provider = $1 and type = 'blocked'",
    [played.lane.name],
  )
  const { name, pauses: wanted } = played.lane
  const isPauseRight = wanted === 'may' || pauses.length > 0 === (wanted === 'must')
  return [
    ...faults.sentences(),
    ...countFaults(played, timelines),
    ...(!isPauseRight ? [`the provider ${name} was paused ${pauses.length} times`] : []),
  ]
}

/** Which of them met what is known in numbers only, but each comes to its end, and none of it costs an attempt. */
function inTurn({ lane }: Played, { misdeed }: Victim, timeline: Timeline | undefined): string | undefined {
  const { attempts, words = [] } = timeline ?? {}
  const ofConnections = lane.misdeeds.filter(({ isOfConnection }) => isOfConnection)
  const known = new Set([
    'unreachable connect_failed',
    ...ofConnections.flatMap(({ ends }) => ends.split(', ')),
  ])
  const isRight =
    words.at(-1) === misdeed.ends.split(', ').at(-1) &&
    words.every((word) => known.has(word)) &&
    attempts === attemptsIn(words)
  return isRight ? undefined : `a message of the lane ${lane.name}: ${textOf(timeline)}`
}

function byMessage({ lane, relay }: Played, { misdeed, key }: Victim, timeline: Timeline | undefined) {
  const met = relay.encounters.find((each) => each.key === key)
  const expected = misdeed.ends.split(', ')
  // Lost before anything was said on a connection kept from earlier: another one has it, without a word.
  const isQuiet =
    met?.isFresh === false && /^unreachable (?:connection_lost|service_unavailable)$/.test(expected[0] ?? '')
  const words = isQuiet ? expected.slice(1) : expected
  const status = words.at(-1)?.split(' ')[0]
  const isRight =
    timeline?.status === status &&
    timeline?.words.join() === words.join() &&
    timeline.attempts === attemptsIn(words)
  if (isRight) return undefined
  return `a relay (${lane.name}) that ${misdeed.does}: ${textOf(timeline)}, and not ${words.join(', ')}`
}

function copiesFault({ lane, relay }: Played, { misdeed, key }: Victim): string | undefined {
  const wanted = [misdeed.copies, misdeed.secondCopies ?? 0]
  const seen = [key, secondOf(key)].map((recipient) => relay.copies.get(recipient) ?? 0)
  if (seen.join() === wanted.join()) return undefined
  return `a relay (${lane.name}) that ${misdeed.does}: ${seen.join(' and ')} copies, and not ${wanted.join(' and ')}`
}

function waitFault({ lane, relay }: Played, { misdeed, key }: Victim): string | undefined {
  const met = relay.encounters.find((each) => each.key === key)
  const leastMs = (misdeed.waitsS ?? BACKOFF_S / 2) * 1_000
  if (met?.backAfterMs === undefined || met.isFresh === false || met.backAfterMs >= leastMs) return undefined
  return `a relay (${lane.name}) that ${misdeed.does}: it came back after ${met.backAfterMs} ms, ${leastMs} at least are right`
}

/**
 * As many of each code as connections met it. A busy machine makes us give up on some of them before they have done it:
 * then there is as much more of what timed out.
 */
function countFaults({ lane, relay }: Played, timelines: ReadonlyMap<string, Timeline>): string[] {
  const wanted = new Map<string, number>()
  for (const [place, { ends, isOfConnection }] of lane.misdeeds.entries()) {
    const [word = ''] = ends.split(', ')
    if (!isOfConnection || lane.isAbsent || word === 'sent') continue
    wanted.set(word, (wanted.get(word) ?? 0) + (relay.done[place] ?? 0))
  }
  const seen = new Map<string, number>()
  for (const word of [...timelines.values()].flatMap(({ words }) => words)) {
    // A reset may come before our side has seen its connection made.
    const name = word.replace('connect_failed', 'connection_lost')
    seen.set(name, (seen.get(name) ?? 0) + 1)
  }
  const total = (list: Iterable<number>) => [...list].reduce((sum, count) => sum + count, 0)
  const isBeyond = [...wanted].some(([word, count]) => word !== TIMED_OUT && (seen.get(word) ?? 0) > count)
  const isShort = total([...wanted.keys()].map((word) => seen.get(word) ?? 0)) < total(wanted.values())
  if (!isBeyond && !isShort) return []
  const textOfAll = (counts: ReadonlyMap<string, number>) =>
    [...counts].map(([word, count]) => `${count} ${word}`).join(', ')
  return [`the lane ${lane.name} met ${textOfAll(wanted)}; on record are ${textOfAll(seen)}`]
}

const TIMED_OUT = 'unreachable timed_out'

function textOf(timeline: Timeline | undefined): string {
  if (timeline === undefined) return 'nothing is known of it'
  return `${timeline.words.join(', ') || timeline.status} after ${timeline.attempts} attempts`
}
