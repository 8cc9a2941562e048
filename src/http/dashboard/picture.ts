import { html } from 'hono/html'
import { amount, perSecond, share, span } from './amounts.ts'
import { table } from './elements.ts'
import type { Html } from './frame.ts'
import {
  type Depth,
  MAX_DEAD_LETTERS,
  type ProviderLine,
  type Snapshot,
  type StreamLine,
} from './live-queries.ts'
import { timesOf, totalOf, type Waiting, waitingIn } from './totals.ts'
import { isLate, PROVIDER_WORDS, reasonOf } from './trouble.ts'

/** The pipeline as boxes in the order in which mail passes them; every number stands in words beside it. */

/** Streams named in a box; the table below the picture has all. */
const MAX_NAMED = 4

export function pipeline(snapshot: Snapshot): Html {
  const at = (stage: Depth['stage']) => snapshot.depths.filter((depth) => depth.stage === stage)
  return html`<ol class="flow">
    <li>${stageBox(snapshot, { title: 'Doors', about: 'accepted, not stored yet', depths: at('intake') })}
      ${scheduledBox(at('scheduled'))}</li>
    <li>${stageBox(snapshot, { title: 'Processing', about: 'to be rendered and routed', depths: at('processing') })}</li>
    <li>${dispatchBox(snapshot, at('dispatch'))}</li>
    <li>${sentBox(snapshot)}</li>
  </ol>`
}

type Stage = { readonly title: string; readonly about: string; readonly depths: readonly Depth[] }

function stageBox(snapshot: Snapshot, { title, about, depths }: Stage): Html {
  const waiting = waitingIn(depths)
  const isBehind = depths.some((depth) => isLate(depth, snapshot))
  return html`<section class="stage${isBehind ? ' warn' : ''}${waiting.outPerS > 0 ? ' moving' : ''}">
    <h3>${title} ${isBehind && html`<span class="state warn">late</span>`}</h3>
    <p class="figure"><strong>${amount(waiting.ready)}</strong> waiting</p>
    <p class="soft">${about}</p>
    ${rates(waiting)}
    ${details(waiting)}
    ${named(depths)}
  </section>`
}

function scheduledBox(depths: readonly Depth[]): Html {
  // Between two counts what came in is not known to be for later.
  const { ready, deferred } = waitingIn(depths)
  return html`<section class="stage small">
    <h3>Scheduled</h3>
    <p class="figure"><strong>${amount(ready + deferred)}</strong> for later</p>
  </section>`
}

function dispatchBox({ providers, ...snapshot }: Snapshot, depths: readonly Depth[]): Html {
  return html`<section class="stage${waitingIn(depths).outPerS > 0 ? ' moving' : ''}">
    <h3>Dispatch</h3>
    ${providers.length === 0 && html`<p class="soft">There is no provider yet.</p>`}
    <ul class="lanes">
      ${providers.map((provider) => {
        const own = depths.filter((depth) => depth.provider === provider.name)
        return lane({ ...snapshot, providers }, provider, own)
      })}
    </ul>
  </section>`
}

function lane(snapshot: Snapshot, provider: ProviderLine, depths: readonly Depth[]): Html {
  const { tone, word } = PROVIDER_WORDS[provider.state]
  const waiting = waitingIn(depths)
  const latency = timesOf(snapshot.times, 'provider_latency', { provider: provider.name })
  const isBehind = depths.some((depth) => isLate(depth, snapshot))
  return html`<li class="lane ${tone === 'good' && isBehind ? 'warn' : tone}">
    <h4><a href="/dashboard/providers/${provider.name}">${provider.name}</a>
      <span class="state ${tone}">${word}</span> ${isBehind && html`<span class="state warn">late</span>`}</h4>
    ${tone !== 'good' && html`<p class="why"><bdi>${reasonOf(provider)}</bdi>${until(provider)}</p>`}
    <p class="figure"><strong>${amount(waiting.ready + waiting.deferred)}</strong> waiting</p>
    ${bar(waiting)}
    <ul class="marks">
      <li class="ready">${amount(waiting.ready)} ready</li>
      <li class="deferred">${amount(waiting.deferred)} deferred</li>
      <li class="in-flight">${amount(waiting.inFlight)} in flight</li>
    </ul>
    ${rates(waiting)}
    <p class="soft">${oldest(waiting)}${latency && html`answers in ${span(latency.p95_s)} (p95)`}</p>
    ${named(depths)}
  </li>`
}

function until({ until: at }: ProviderLine): Html | string {
  if (at === null || Number.isNaN(Date.parse(at))) return ''
  const iso = new Date(at).toISOString()
  return html`, until <time datetime="${iso}">${iso.slice(11, 19)}</time>`
}

/** What waits, as shares of a line: the numbers stand below it. */
function bar({ ready, deferred, inFlight }: Waiting): Html | string {
  const all = ready + deferred + inFlight
  if (all === 0)
    return html`<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"></svg>`
  const widths = [ready, deferred, inFlight].map((part) => (part / all) * 100)
  const [first = 0, second = 0, third = 0] = widths
  return html`<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
      <rect class="ready" x="0" width="${first.toFixed(2)}" height="4"/>
      <rect class="deferred" x="${first.toFixed(2)}" width="${second.toFixed(2)}" height="4"/>
      <rect class="in-flight" x="${(first + second).toFixed(2)}" width="${third.toFixed(2)}" height="4"/>
    </svg>`
}

function rates({ inPerS, outPerS }: Waiting): Html {
  return html`<p class="rates"><span>${perSecond(inPerS)}/s in</span> <span>${perSecond(outPerS)}/s out</span></p>`
}

function details(waiting: Waiting): Html {
  const { growthPerS: growth, inFlight, deferred } = waiting
  const grows =
    growth === null || Math.abs(growth) < 0.05
      ? ''
      : `${growth > 0 ? 'grows' : 'shrinks'} by ${perSecond(Math.abs(growth))}/s`
  const words = [
    inFlight > 0 ? `${amount(inFlight)} in work` : '',
    deferred > 0 ? `${amount(deferred)} deferred` : '',
    grows,
  ].filter((each) => each !== '')
  return html`<p class="soft">${oldest(waiting)}${words.join(', ')}</p>`
}

function oldest({ oldestAgeS: age, ready }: Waiting): Html | string {
  return age === null || ready === 0 ? '' : html`oldest ${span(age)}<br>`
}

/** Whose mail waits here, the most first. */
function named(depths: readonly Depth[]): Html | string {
  const streams = new Map<string, number>()
  for (const { stream, ready, deferred } of depths) {
    if (ready + deferred > 0) streams.set(stream, (streams.get(stream) ?? 0) + ready + deferred)
  }
  if (streams.size === 0) return ''
  const most = [...streams].toSorted(([, a], [, b]) => b - a)
  const others = most.length - MAX_NAMED
  return html`<ul class="streams" aria-label="Streams that wait here">
    ${most.slice(0, MAX_NAMED).map(([stream, count]) => html`<li>${stream === '' ? 'no stream named' : stream} <b>${amount(count)}</b></li>`)}
    ${others > 0 && html`<li class="soft">and ${others} more</li>`}
  </ul>`
}

function sentBox({ tallies, times, dead_letters: dead }: Snapshot): Html {
  const total = totalOf(tallies)
  const took = timesOf(times, 'time_to_send')
  return html`<section class="stage end">
    <h3>Sent</h3>
    <p class="figure"><strong>${perSecond(total.perS('sent'))}</strong> a second</p>
    <dl>
      <div><dt>Time to send</dt><dd>${took === undefined ? '–' : html`${span(took.p50_s)}, p95 ${span(took.p95_s)}`}</dd></div>
      <div><dt>Attempts that fail</dt><dd>${total.attempts === 0 ? '–' : share(total.failed / total.attempts)}</dd></div>
      <div><dt>Suppressed</dt><dd>${perSecond(total.perS('suppressed'))}/s</dd></div>
      <div class="${dead > 0 ? 'bad' : ''}"><dt><a href="/dashboard/dead-letters">Dead letters</a></dt>
        <dd>${amount(dead)}${dead >= MAX_DEAD_LETTERS ? ' or more' : ''}${total.perS('dead') > 0 ? `, ${perSecond(total.perS('dead'))}/s` : ''}</dd></div>
    </dl>
  </section>`
}

/** Every stream in a line: where its mail waits, and how it flows. */
export function streamTable(snapshot: Snapshot): Html {
  const of = (stream: StreamLine, stages: readonly Depth['stage'][]) =>
    waitingIn(snapshot.depths.filter((each) => each.stream === stream.name && stages.includes(each.stage)))
  const total = ({ name }: StreamLine) => totalOf(snapshot.tallies.filter(({ stream }) => stream === name))
  const failing = (stream: StreamLine) => {
    const { attempts, failed } = total(stream)
    return attempts === 0 ? null : share(failed / attempts)
  }
  return table<StreamLine>({
    caption: 'Streams, the most urgent first; rates and times of the last minute',
    empty: 'There is no stream.',
    rows: snapshot.streams,
    columns: [
      { name: 'Stream', cell: ({ name }) => html`<a href="/dashboard/streams/${name}">${name}</a>` },
      { name: 'State', cell: streamState },
      { name: 'Priority', kind: 'number', cell: ({ priority }) => priority },
      {
        name: 'For processing',
        kind: 'number',
        cell: (each) => amount(of(each, ['intake', 'processing']).ready),
      },
      { name: 'For dispatch', kind: 'number', cell: (each) => amount(of(each, ['dispatch']).ready) },
      {
        name: 'Deferred',
        kind: 'number',
        cell: (each) => amount(of(each, ['processing', 'dispatch']).deferred),
      },
      {
        name: 'Oldest',
        kind: 'number',
        cell: (each) => {
          const { oldestAgeS: age, ready } = of(each, ['intake', 'processing', 'dispatch'])
          return age === null || ready === 0 ? null : span(age)
        },
      },
      { name: 'Accepted', kind: 'number', cell: (each) => `${perSecond(total(each).perS('accepted'))}/s` },
      { name: 'Sent', kind: 'number', cell: (each) => `${perSecond(total(each).perS('sent'))}/s` },
      {
        name: 'p95 to send',
        kind: 'number',
        cell: ({ name }) => {
          const took = timesOf(snapshot.times, 'time_to_send', { stream: name })
          return took === undefined ? null : span(took.p95_s)
        },
      },
      { name: 'Fail', kind: 'number', cell: failing },
    ],
  })
}

export function streamState({ paused_at: pausedAt, opens_at: opensAt }: StreamLine): Html {
  if (pausedAt !== null) return html`<span class="state warn">paused</span>`
  if (opensAt === null) return html`<span class="state good">running</span>`
  const iso = new Date(opensAt).toISOString()
  return html`<span class="state">waits</span> for its send window, <time datetime="${iso}">${iso.slice(0, 10)} ${iso.slice(11, 16)}</time>`
}
