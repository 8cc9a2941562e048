import { span } from './amounts.ts'
import type { Depth, ProviderLine, ProviderState, Snapshot } from './live-queries.ts'
import { totalOf } from './totals.ts'

/** What in a snapshot needs a person, in words that hold until it changes: numbers that move are shown elsewhere. */

export type Trouble = {
  readonly tone: 'warn' | 'bad'
  readonly words: string
  /** Where it can be repaired. */
  readonly path: string
  readonly link: string
}

/** Streams whose mail this process refuses now; `all` when it refuses every stream. */
export type Refusals = { readonly all: boolean; readonly streams: readonly string[] }

/** The leader renews its lease every few seconds, and the next one takes over after ten. */
const LEADER_IS_GONE_AFTER_S = 15
/** Mail that could go and does not: a person would notice the wait. */
const OLD_S = 60
/** Below so many attempts in the minute a share of them says nothing. */
const MIN_ATTEMPTS_PER_S = 20 / 60
const MANY_FAIL = 0.05

/** The worst first. */
export function troublesOf(snapshot: Snapshot, refusals: Refusals): Trouble[] {
  const found = [
    ...holdTroubles(snapshot),
    ...processTroubles(snapshot),
    ...doorTroubles(refusals),
    ...snapshot.providers.flatMap((provider) =>
      isAlerted(provider, snapshot) || snapshot.held !== null ? [] : (providerTrouble(provider) ?? []),
    ),
    ...streamTroubles(snapshot),
    ...flowTroubles(snapshot),
  ]
  return found.toSorted((a, b) => Number(b.tone === 'bad') - Number(a.tone === 'bad'))
}

/** What the alert says as well, once it has fired: this is there at once. */
function holdTroubles({ held }: Snapshot): Trouble[] {
  if (held === null) return []
  const words = `${held.charAt(0).toUpperCase()}${held.slice(1)}.`
  return [{ tone: 'bad', words, path: '/dashboard/streams', link: 'What waits' }]
}

function processTroubles({ workers, leader_seen_s: seen }: Snapshot): Trouble[] {
  const to = { path: '/dashboard/processes', link: 'Processes' }
  if (workers.alive === 0) {
    return [{ tone: 'bad', words: 'No worker is running: mail is accepted, and nothing is sent.', ...to }]
  }
  const isUnmeasured = seen === null || seen > LEADER_IS_GONE_AFTER_S
  return isUnmeasured
    ? [{ tone: 'bad', words: 'No process measures: what waits is shown as it was last known.', ...to }]
    : []
}

function doorTroubles({ all, streams }: Refusals): Trouble[] {
  const to = { path: '/dashboard/streams', link: 'Streams' }
  if (all)
    return [{ tone: 'bad', words: 'All mail is refused at the door: too much is waiting there.', ...to }]
  if (streams.length === 0) return []
  const words = `Mail that is not urgent is refused at the door (${streams.join(', ')}): too much is waiting there.`
  return [{ tone: 'warn', words, ...to }]
}

/** How each state of a provider is said, and how bad it is. */
export const PROVIDER_WORDS: Readonly<
  Record<ProviderState, { readonly tone: 'good' | 'warn' | 'bad'; readonly word: string }>
> = {
  unusable: { tone: 'bad', word: 'unusable' },
  paused: { tone: 'warn', word: 'paused' },
  told_to_wait: { tone: 'warn', word: 'asked to wait' },
  open: { tone: 'bad', word: 'breaker open' },
  half_open: { tone: 'warn', word: 'probing' },
  nearly_used_up: { tone: 'warn', word: 'urgent mail only' },
  well: { tone: 'good', word: 'well' },
}

/** Why, as the page says it; the reason within it may be the provider's own text. */
export function reasonOf({ state, status }: ProviderLine): string | null {
  if (state === 'well') return null
  return state === 'half_open' ? 'a few probes find out whether it is back' : status
}

/** An alert says it already. */
function isAlerted({ name }: ProviderLine, { alerts }: Snapshot): boolean {
  return alerts.some(({ provider }) => provider === name)
}

function providerTrouble(provider: ProviderLine): Trouble | undefined {
  const { tone } = PROVIDER_WORDS[provider.state]
  if (tone === 'good') return undefined
  return {
    tone,
    // A provider's own words may end with a full stop.
    words: `Provider ${provider.name}: ${(reasonOf(provider) ?? '').replace(/\.$/, '')}.`,
    path: `/dashboard/providers/${provider.name}`,
    link: 'Provider',
  }
}

function streamTroubles({ streams }: Snapshot): Trouble[] {
  return streams
    .filter(({ paused_at: pausedAt }) => pausedAt !== null)
    .map(({ name, paused_by: by }) => ({
      tone: 'warn',
      words: `Stream ${name} is paused by ${by ?? 'somebody'}: its mail is accepted, and waits.`,
      path: `/dashboard/streams/${name}`,
      link: 'Stream',
    }))
}

function flowTroubles(snapshot: Snapshot): Trouble[] {
  const late = snapshot.depths.filter((depth) => isLate(depth, snapshot))
  const total = totalOf(snapshot.tallies)
  const failing: Trouble[] =
    total.attempts >= MIN_ATTEMPTS_PER_S && total.failed / total.attempts >= MANY_FAIL
      ? [
          {
            tone: 'bad',
            words: 'Many attempts fail: more than one in twenty of the last minute.',
            path: '/dashboard/dead-letters',
            link: 'Dead letters',
          },
        ]
      : []
  return [...failing, ...late.map(lateTrouble)]
}

/** Held back on purpose, it is not late. */
export function isLate(
  { stage, stream, provider, oldest_age_s: age }: Depth,
  { streams, providers }: Pick<Snapshot, 'streams' | 'providers'>,
) {
  if (stage === 'scheduled' || (age ?? 0) < OLD_S) return false
  const isClosed = streams.some(
    (each) => each.name === stream && (each.paused_at !== null || each.opens_at !== null),
  )
  const isHeld = providers.some((each) => each.name === provider && each.state !== 'well')
  return stage === 'dispatch' ? !isClosed && !isHeld : true
}

function lateTrouble({ stage, stream, provider }: Depth): Trouble {
  const what = stream === '' ? 'Mail' : `Mail of stream ${stream}`
  const where = { intake: 'at the door', scheduled: 'to be due', processing: 'for processing' }
  const place = stage === 'dispatch' ? `for provider ${provider}` : where[stage]
  return {
    tone: 'warn',
    words: `${what} has waited ${place} for more than ${span(OLD_S)}.`,
    path: stage === 'dispatch' ? `/dashboard/providers/${provider}` : '/dashboard/streams',
    link: stage === 'dispatch' ? 'Provider' : 'Streams',
  }
}
