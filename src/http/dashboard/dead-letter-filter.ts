import type { DeadLetterGroup } from '../control-queries.ts'
import { linkTo } from './elements.ts'
import { momentIn, wordsIn } from './input.ts'

/** Which dead letters are meant: a filter of `mail.dlq_match` as an address holds it. */

/** With their names on the page. */
export const FILTER_FIELDS = {
  stage: 'Stage',
  code: 'Code',
  template: 'Template',
  template_version: 'Version',
  stream: 'Stream',
  provider: 'Provider',
  source: 'Source',
  recipient_domain: 'Recipient domain',
} as const
type FilterField = keyof typeof FILTER_FIELDS
const FIELDS = Object.keys(FILTER_FIELDS) as FilterField[]

/** Null: those that have none. */
export type DeadLetterFilter = Partial<Record<FilterField, string | null>> & {
  readonly since?: string
  readonly until?: string
}

export const LETTERS_PATH = '/dashboard/dead-letters/letters'

/** Throws an ApiError for a time that is none; parameters that mean nothing here are passed over. */
export function readFilter(given: URLSearchParams): DeadLetterFilter {
  const without = new Set((given.get('without') ?? '').split(','))
  const fields = FIELDS.flatMap((name): [FilterField, string | null][] => {
    const words = wordsIn(given, name)
    if (words !== undefined) return [[name, words]]
    return without.has(name) ? [[name, null]] : []
  })
  const since = momentIn(given, 'since', 'Died since')
  const until = momentIn(given, 'until', 'Died before')
  return {
    ...Object.fromEntries(fields),
    ...(since !== undefined && { since: since.toISOString() }),
    ...(until !== undefined && { until: until.toISOString() }),
  }
}

/** The parameters that readFilter reads so. */
export function parametersFor(filter: DeadLetterFilter): Record<string, string> {
  const without = FIELDS.filter((name) => filter[name] === null)
  const given = Object.entries(filter).filter((entry): entry is [string, string] => entry[1] !== null)
  return { ...Object.fromEntries(given), ...(without.length > 0 && { without: without.join(',') }) }
}

export function lettersLink(filter: DeadLetterFilter, more: Record<string, string | undefined> = {}): string {
  return linkTo(LETTERS_PATH, { ...parametersFor(filter), ...more })
}

/** Exactly the letters of a group: by what `mail.dlq_summary` groups them. */
export function filterOf({
  stage,
  code,
  template,
  template_version,
  source,
}: DeadLetterGroup): DeadLetterFilter {
  if (stage !== 'processing') return { stage, code, ...(source !== null && { source }) }
  return {
    stage,
    code,
    template,
    template_version: template_version === null ? null : String(template_version),
  }
}
