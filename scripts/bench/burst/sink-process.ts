/** A sink that notes when each mail of the burst came, and which came twice: some bytes a mail, whatever its size. */
import { listenForMail } from '../smtp-lines.ts'
import { KINDS, type Kind, readRecipient } from './mail.ts'
import { Moments, monotonicMs } from './moments.ts'
import type { BurstSinkReport } from './sink.ts'

const PROGRESS_MS = 250

const moments = Object.fromEntries(KINDS.map((kind) => [kind, new Moments()])) as Record<Kind, Moments>
const arrived: Record<Kind, number> = { order: 0, reset: 0, news: 0 }
const twice: Record<Kind, number> = { order: 0, reset: 0, news: 0 }
let strangers = 0

function tell(report: BurstSinkReport): void {
  process.send?.(report)
}

function note(recipient: string): void {
  const mail = readRecipient(recipient)
  if (mail === undefined) {
    strangers += 1
    return
  }
  const { kind, n } = mail
  if (Number.isNaN(moments[kind].get(n))) {
    moments[kind].set(n, monotonicMs())
    arrived[kind] += 1
  } else twice[kind] += 1
}

process.on('message', () => {
  const arrivals = Object.fromEntries(KINDS.map((kind) => [kind, moments[kind].toText()])) as Record<
    Kind,
    string
  >
  tell({ kind: 'arrivals', arrivals, twice, strangers })
})
process.on('disconnect', () => process.exit(0))
setInterval(() => tell({ kind: 'progress', arrived }), PROGRESS_MS).unref()

tell({ kind: 'listening', port: await listenForMail(note) })
