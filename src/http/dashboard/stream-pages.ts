import { html } from 'hono/html'
import { isUrgent } from '../../urgency.ts'
import { amount, momentAndAge, perSecond, share, span } from './amounts.ts'
import { type Cell, facts, table } from './elements.ts'
import type { Html, Page } from './frame.ts'
import { holdForm } from './hold.ts'
import type { Depth, Snapshot } from './live-queries.ts'
import { streamState, streamTable } from './picture.ts'
import type { Session } from './session.ts'
import type { SendWindow, StreamRow } from './stream-queries.ts'
import { routeForm } from './stream-route.ts'
import { timesOf, totalOf } from './totals.ts'

export function streamsPage(snapshot: Snapshot): Page {
  return {
    title: 'Streams',
    section: 'streams',
    body: html`<p>Kinds of mail that must not hold each other up: each has its own queues, slots and retry rules.</p>
      ${streamTable(snapshot)}`,
  }
}

export type StreamView = {
  readonly stream: StreamRow
  readonly windows: readonly SendWindow[]
  readonly snapshot: Snapshot
  readonly session: Session
}

export function streamPage({ stream, windows, snapshot, session }: StreamView): Page {
  const now = new Date(snapshot.at)
  return {
    title: `Stream ${stream.name}`,
    section: 'streams',
    body: html`
      <p><a href="/dashboard/streams">All streams</a></p>
      <section class="card">
        <p>${snapshot.streams.filter(({ name }) => name === stream.name).map(streamState)}${stream.paused_at !== null && html` by <bdi>${stream.paused_by}</bdi>, ${momentAndAge(stream.paused_at, now)}`}</p>
        ${facts(flowOf(stream, snapshot))}
        <div class="actions">${holdForm('stream', stream, session)}${routeForm(stream, session)}
          <a class="button" href="/dashboard/messages?stream=${stream.name}">Its messages</a></div>
      </section>
      ${waitingTable(snapshot.depths.filter((depth) => depth.stream === stream.name))}
      <section class="card">
        <h2>Settings</h2>
        ${facts(settingsOf(stream, windows))}
        <p class="soft">They are a row of <code>mail.stream</code>, changed live by SQL or <code>PUT /streams/${stream.name}</code>.</p>
      </section>`,
  }
}

function flowOf({ name }: StreamRow, { tallies, times }: Snapshot): (readonly [string, Cell])[] {
  const total = totalOf(tallies.filter(({ stream }) => stream === name))
  const took = timesOf(times, 'time_to_send', { stream: name })
  const rate = (kind: string) => `${perSecond(total.perS(kind))} a second`
  return [
    ['Accepted', rate('accepted')],
    ['Sent', rate('sent')],
    ['Retried', rate('retried')],
    ['Suppressed', rate('suppressed')],
    ['Dead', rate('dead')],
    ['Attempts that fail', total.attempts === 0 ? null : share(total.failed / total.attempts)],
    [
      'Time to send',
      took === undefined
        ? 'nothing was sent in the last minute'
        : `${span(took.p50_s)}, p95 ${span(took.p95_s)}`,
    ],
  ]
}

function waitingTable(depths: readonly Depth[]): Html {
  return table({
    caption: 'Where it waits',
    empty: 'None of its mail waits.',
    rows: depths.filter((each) => each.ready + each.deferred + each.in_flight > 0),
    columns: [
      { name: 'Stage', cell: ({ stage }) => (stage === 'intake' ? 'doors' : stage) },
      {
        name: 'Provider',
        cell: ({ provider }) =>
          provider === '' ? null : html`<a href="/dashboard/providers/${provider}">${provider}</a>`,
      },
      { name: 'Ready', kind: 'number', cell: ({ ready }) => amount(ready) },
      { name: 'Deferred', kind: 'number', cell: ({ deferred }) => amount(deferred) },
      { name: 'In work', kind: 'number', cell: ({ in_flight: inFlight }) => amount(inFlight) },
      {
        name: 'Oldest',
        kind: 'number',
        cell: ({ oldest_age_s: age, ready }) => (age === null || ready === 0 ? null : span(age)),
      },
      { name: 'In', kind: 'number', cell: ({ in_per_s: rate }) => `${perSecond(rate)}/s` },
      { name: 'Out', kind: 'number', cell: ({ out_per_s: rate }) => `${perSecond(rate)}/s` },
      {
        name: 'Grows by',
        kind: 'number',
        cell: ({ growth_per_s: growth }) => (growth === null ? null : `${perSecond(growth)}/s`),
      },
    ],
  })
}

function settingsOf(stream: StreamRow, windows: readonly SendWindow[]): (readonly [string, Cell])[] {
  const { unsubscribe, unsubscribe_mailto: mailto, postal_address: postal } = stream
  return [
    ['Priority', `${stream.priority} (0 goes first, 9 last)`],
    ['Route', routeOf(stream)],
    ['Slots', `${stream.slots} per provider and worker`],
    [
      'Attempts',
      `${stream.attempts}, after ${span(stream.backoff_base_s)}, each ${stream.backoff_factor} times as long, up to ${span(stream.backoff_cap_s)}`,
    ],
    ['Given up after', span(stream.max_age_s)],
    ['Should be sent within', span(stream.send_within_s ?? (isUrgent(stream) ? 5 : 30))],
    ['Send windows', windows.length === 0 ? 'none: at any time' : windows.map(described).join('; ')],
    ['Sensitive', stream.is_sensitive ? 'encrypted, removed on sending, never shown' : null],
    [
      'When nobody knows whether it was sent',
      stream.on_unknown === 'retry' ? 'it is sent again' : 'it waits for a person or the provider’s word',
    ],
    ['Bounce domain', stream.bounce_domain],
    [
      'Unsubscribing',
      unsubscribe ? `offered${stream.requires_unsubscribe ? ', and required' : ''}` : 'not offered',
    ],
    ['Unsubscribing by mail', mailto],
    ['Postal address', postal === null ? null : html`<bdi>${postal}</bdi>`],
  ]
}

function described({ days, opens, closes, time_zone: zone }: SendWindow): string {
  const when = days.length === 7 ? 'every day' : days.join(', ')
  return `${when} from ${opens.slice(0, 5)} to ${closes.slice(0, 5)}, ${zone}`
}

function routeOf({ route }: StreamRow): Html {
  return html`${route.map((name, index) => html`${index > 0 ? ', then ' : ''}<a href="/dashboard/providers/${name}">${name}</a>`)}`
}
