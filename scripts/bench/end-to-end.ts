/**
 * Order confirmations from the moment they are handed over to the sink: Sluice, three queues with nodemailer, and a bare
 * loop that renders and sends the same mail to the same sink.
 */
import type { Contender } from './contender.ts'
import { BARE_LOOP, bareLoop, queue, type Stage, sluice } from './contenders.ts'
import { findPeers, type Store } from './peers.ts'
import type { BenchOptions, Findings } from './report.ts'
import { publishTemplate, type Rig, startService, withClient } from './rig.ts'
import { startBestSink } from './sink.ts'
import type { MeasuredTargets } from './targets.ts'
import { isSluice, type Line, linesTable, lostBySluice, takeTurns } from './turns.ts'

const WORKERS = [1, 2] as const
const LONG_MESSAGES = 100_000

export function endToEnd(rig: Rig, options: BenchOptions): Promise<Findings> {
  return compare(rig, { ...options, name: 'end-to-end' })
}

/** Ten times as many, once: what does not show in ten seconds, such as tables that grow and memory that does not shrink. */
export function endToEndLong(rig: Rig, options: BenchOptions): Promise<Findings> {
  const messages = Math.max(LONG_MESSAGES, options.messages)
  return compare(rig, { ...options, name: 'end-to-end-long', messages, rounds: 1 })
}

async function compare(rig: Rig, options: BenchOptions & { readonly name: string }): Promise<Findings> {
  const { name, messages, rounds, profileDir, say } = options
  const databaseUrl = await rig.createDatabase(name)
  const sink = await startBestSink(rig.guard)
  const first = await startService(rig, {
    databaseUrl,
    smtpUrl: sink.url,
    roles: 'api',
    profileDir: undefined,
  })
  await publishTemplate(first.url)
  await first.stop()
  const stage: Stage = { rig, sink, profileDir, mail: 'order' }
  const peers = findPeers(say)
  const stores: Store[] = []
  const queues: Contender[] = []
  for (const peer of peers.filter(({ missing }) => missing === undefined)) {
    const store = await peer.open(rig, name)
    stores.push(store)
    queues.push(...WORKERS.map((workers) => queue(stage, peer, store, workers)))
  }
  const lines = await withClient(databaseUrl, (client) => {
    const own = WORKERS.map((workers) => sluice(stage, databaseUrl, client, workers))
    return takeTurns([...own, ...queues, bareLoop(stage)], { name, sink, messages, rounds, say })
  })
  for (const store of stores) store.close()
  sink.close()
  const missing = peers.flatMap(({ name, missing }) => (missing === undefined ? [] : { name, missing }))
  const count = messages.toLocaleString('en-US')
  return {
    data: { sink: sink.name, messages, rounds, contenders: lines, missing },
    // Targets and plot are about the usual number.
    ...(name === 'end-to-end' && {
      measured: measuredOf(lines, `${count} messages, median of ${rounds}`),
      plot: {
        rates: lines.map((line) => ({ contender: line.contender, perS: line.perS, isOurs: isSluice(line) })),
      },
    }),
    lost: lostBySluice(lines),
    text: [
      `${count} messages, median of ${rounds}, into ${sink.name}. CPU in milliseconds a message.`,
      '',
      linesTable(lines),
      ...missing.map(({ name, missing }) => `\n${name} took no part: ${missing}.`),
    ].join('\n'),
  }
}

function measuredOf(lines: readonly Line[], of: string): MeasuredTargets {
  const best = (these: readonly Line[]) => these.toSorted((a, b) => b.perS - a.perS)[0]
  const [own, loop] = [best(lines.filter(isSluice)), lines.find(({ contender }) => contender === BARE_LOOP)]
  const other = best(lines.filter((line) => !isSluice(line) && line !== loop))
  const ratioTo = (against: Line | undefined) => (own?.perS ?? Number.NaN) / (against?.perS ?? Number.NaN)
  return {
    queues: { value: ratioTo(other), of: `${of}; against ${other?.contender ?? 'nobody'}` },
    bareLoop: { value: ratioTo(loop), of },
  }
}
