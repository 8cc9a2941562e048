/**
 * Mails of 100 KB, as KumoMTA publishes figures for: from the moment they are handed over until the sink has them all,
 * against a bare loop that sends the same. Nothing is rendered; what counts is how often those bytes are copied.
 */
import { bareLoop, type Stage, sluice } from './contenders.ts'
import { LARGE_BYTES } from './large.ts'
import type { BenchOptions, Findings } from './report.ts'
import { type Rig, startService, withClient } from './rig.ts'
import { startBestSink } from './sink.ts'
import { readable } from './statistics.ts'
import { linesTable, lostBySluice, takeTurns } from './turns.ts'

/** docs.kumomta.com/userguide/performance/testing: 2.7 million an hour with 2 cores and 4 GB, spooled before they are sent. */
const KUMOMTA_PER_S = 750

export async function largeMail(rig: Rig, options: BenchOptions): Promise<Findings> {
  const { largeMails, rounds, profileDir, say } = options
  const databaseUrl = await rig.createDatabase('large_mail')
  const sink = await startBestSink(rig.guard)
  // Its start migrates the database.
  const first = await startService(rig, {
    databaseUrl,
    smtpUrl: sink.url,
    roles: 'api',
    profileDir: undefined,
  })
  await first.stop()
  const stage: Stage = { rig, sink, profileDir, mail: 'large' }
  const lines = await withClient(databaseUrl, (client) => {
    const own = [1, 2].map((workers) => sluice(stage, databaseUrl, client, workers))
    const contest = { name: 'large-mail', sink, messages: largeMails, rounds, say }
    return takeTurns([...own, bareLoop(stage)], contest)
  })
  sink.close()
  const fastest = Math.max(...lines.slice(0, -1).map(({ perS }) => perS))
  return {
    data: { sink: sink.name, messages: largeMails, bytes: LARGE_BYTES, contenders: lines },
    lost: lostBySluice(lines),
    text: [
      `${largeMails.toLocaleString('en-US')} mails of ${LARGE_BYTES / 1_000} KB, median of ${rounds}, into ${sink.name}. CPU in milliseconds a mail.`,
      '',
      linesTable(lines),
      '',
      `KumoMTA's makers publish ${KUMOMTA_PER_S}/s for mails of this size on two cores of theirs, written to disk before they are sent; Sluice's best here is ${readable(fastest / KUMOMTA_PER_S)} of that.`,
    ].join('\n'),
  }
}
