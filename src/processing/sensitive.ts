import { openMessage } from '../message/sensitive-message.ts'
import { SealError, type Sealer } from '../sealer.ts'
import type { AcceptedMessage, LoadedMessage } from './queries.ts'
import type { ProcessedRow } from './store-queries.ts'

export type OpenedMessages = {
  readonly opened: AcceptedMessage[]
  /** Those that this process cannot read, as dead letters would say it. */
  readonly unreadable: { readonly id: string; readonly fault: SealError }[]
}

/** Loaded messages with their secrets: only in memory, for as long as they are processed. */
export function openLoaded(sealer: Sealer, loaded: readonly LoadedMessage[]): OpenedMessages {
  const opened: AcceptedMessage[] = []
  const unreadable: OpenedMessages['unreadable'] = []
  for (const { sealed, message: clear, ...row } of loaded) {
    try {
      opened.push({
        ...row,
        message: sealed === null ? clear : openMessage(sealer, row.id, { clear, sealed }),
      })
    } catch (error) {
      if (!(error instanceof SealError)) throw error
      unreadable.push({ id: row.id, fault: error })
    }
  }
  return { opened, unreadable }
}

/** Failures whose reasons may quote what was to be rendered; those of the others speak of the template alone. */
const QUOTING: readonly string[] = ['template_failed', 'output_invalid', 'variables_invalid']
const WITHHELD =
  'Why is not kept, because the message is sensitive and the words may quote it. Preview the template with data of the same shape (POST /templates/:id/preview), publish a repaired version, then retry.'

/** What processing made of sensitive mail, as it is stored: rendered parts sealed, and no words that could quote them. */
export function sealProcessed(sealer: Sealer, row: ProcessedRow): ProcessedRow {
  const { prepared } = row
  const isQuoting = QUOTING.includes(row.code ?? '')
  const reason = isQuoting
    ? `Template ${row.template} version ${row.template_version} failed. ${WITHHELD}`
    : row.reason
  if (prepared === null) return { ...row, reason }
  const { subject, html, text, ...rest } = prepared
  if (subject === null && html === null && text === null) return { ...row, reason }
  const sealed = sealer.seal('prepared', row.id, JSON.stringify({ subject, html, text }))
  return { ...row, reason, prepared: { ...rest, subject: null, html: null, text: null, sealed } }
}
