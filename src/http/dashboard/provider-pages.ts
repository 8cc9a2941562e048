import { html } from 'hono/html'
import { amount, momentAndAge, perSecond, share, span } from './amounts.ts'
import { facts, table, text } from './elements.ts'
import type { Html, Page } from './frame.ts'
import { holdForm } from './hold.ts'
import type { ProviderLine, Snapshot } from './live-queries.ts'
import type { ProviderEvent, ProviderSettings, Quota } from './provider-queries.ts'
import type { Session } from './session.ts'
import { timesOf, totalOf, waitingIn } from './totals.ts'
import { PROVIDER_WORDS, reasonOf } from './trouble.ts'

const STYLES = ['overview.css']

export function providersPage(snapshot: Snapshot, quotas: readonly Quota[]): Page {
  return {
    title: 'Providers',
    section: 'providers',
    styles: STYLES,
    body: html`
      <p>Where mail leaves. Rates and times are those of the last full minute.</p>
      ${snapshot.providers.length === 0 && html`<div class="card"><p class="empty">There is no provider yet: set SMTP_URL, or add a row to mail.provider.</p></div>`}
      <div class="cards">
        ${snapshot.providers.map(
          (provider) => html`<article class="card">
            <h2><a href="/dashboard/providers/${provider.name}">${provider.name}</a> ${stateOf(provider)}</h2>
            ${why(provider)}
            ${facts(flowOf(provider, snapshot))}
            ${quotas.filter((quota) => quota.provider === provider.name).map(gauge)}
          </article>`,
        )}
      </div>`,
  }
}

export type ProviderView = {
  readonly settings: ProviderSettings
  readonly snapshot: Snapshot
  readonly quotas: readonly Quota[]
  readonly events: readonly ProviderEvent[]
  readonly session: Session
}

export function providerPage({ settings, snapshot, quotas, events, session }: ProviderView): Page {
  const provider = snapshot.providers.find(({ name }) => name === settings.name)
  const now = new Date(snapshot.at)
  return {
    title: `Provider ${settings.name}`,
    section: 'providers',
    styles: STYLES,
    body: html`
      <p><a href="/dashboard/providers">All providers</a></p>
      <section class="card">
        ${provider && html`<p>${stateOf(provider)}</p>${why(provider)}${facts(flowOf(provider, snapshot))}`}
        <div class="actions">${holdForm('provider', settings, session)}</div>
      </section>
      <section class="card">
        <h2>Quotas</h2>
        ${quotas.length === 0 ? html`<p>None: mail goes as fast as there are slots. Add rows to <code>mail.bucket</code> to pace it.</p>` : quotas.map(gauge)}
      </section>
      <section class="card">
        <h2>Settings</h2>
        ${facts(described(settings, now))}
        <p class="soft">They are a row of <code>mail.provider</code>, changed live by SQL or <code>PUT /providers/${settings.name}</code>.</p>
      </section>
      ${waitingTable(settings.name, snapshot)}
      ${table({
        caption: 'Its breaker, pauses and requests to wait, the latest first',
        empty: 'Nothing has happened to it yet.',
        rows: events,
        columns: [
          { name: 'When', kind: 'exact', cell: ({ at }) => momentAndAge(at, now) },
          { name: 'What', kind: 'exact', cell: ({ type }) => type.replaceAll('_', ' ') },
          { name: 'Why', cell: ({ reason }) => text(reason) },
        ],
      })}`,
  }
}

function stateOf({ state, transport }: ProviderLine): Html {
  const { tone, word } = PROVIDER_WORDS[state]
  return html`<span class="state ${tone}">${word}</span> <span class="tag">${transport}</span>`
}

function why(provider: ProviderLine): Html | string {
  const reason = reasonOf(provider)
  if (reason === null) return ''
  return html`<p><bdi>${reason}</bdi>${provider.until === 'infinity' ? ', until it is resumed' : ''}${
    provider.until !== null && provider.until !== 'infinity'
      ? html`, until <time datetime="${provider.until}">${new Date(provider.until).toISOString().slice(11, 19)}</time>`
      : ''
  }</p>`
}

function flowOf({ name }: ProviderLine, { depths, tallies, times, streams }: Snapshot) {
  const waiting = waitingIn(depths.filter(({ provider, stage }) => provider === name && stage === 'dispatch'))
  const total = totalOf(tallies.filter(({ provider }) => provider === name))
  const latency = timesOf(times, 'provider_latency', { provider: name })
  const requests = total.perS('request')
  const served = streams.filter(({ route }) => route.includes(name))
  return [
    [
      'Waiting',
      `${amount(waiting.ready)} ready, ${amount(waiting.deferred)} deferred, ${amount(waiting.inFlight)} in flight`,
    ],
    ['Oldest', waiting.oldestAgeS === null || waiting.ready === 0 ? null : span(waiting.oldestAgeS)],
    ['Sent', `${perSecond(total.perS('sent'))} a second`],
    [
      'Requests',
      `${perSecond(requests)} a second, ${requests === 0 ? 'none failed' : `${share(total.perS('fault') / requests)} failed by its own fault`}`,
    ],
    ['Answers in', latency === undefined ? null : `${span(latency.p50_s)}, p95 ${span(latency.p95_s)}`],
    ['In the route of', served.length === 0 ? 'no stream' : routes(name, served)],
  ] as const
}

function routes(name: string, served: Snapshot['streams']): Html {
  return html`${served.map(({ name: stream, route }, index) => {
    const place = route.indexOf(name) + 1
    return html`${index > 0 ? ', ' : ''}<a href="/dashboard/streams/${stream}">${stream}</a>${place > 1 ? ` (${ordinal(place)} choice)` : ''}`
  })}`
}

function ordinal(place: number): string {
  return { 2: 'second', 3: 'third' }[place] ?? `${place}th`
}

function gauge(quota: Quota): Html {
  const { name, counts, window_s: windowS, used_s: usedS, used, is_by_day: isByDay } = quota
  const allowed = (quota.quota * usedS) / windowS
  const id = `quota-${quota.provider}-${name}`
  const kept =
    quota.kept_for_urgent > 0 ? `, ${amount(Math.round(quota.kept_for_urgent))} kept for urgent mail` : ''
  const since = isByDay ? sinceDay(usedS) : `in the last ${span(usedS)}`
  return html`<div class="quota">
    <p id="${id}"><strong>${name}</strong>: ${amount(quota.quota)} ${counts} in ${span(windowS)}</p>
    <meter aria-labelledby="${id}" min="0" max="1" low="0.7" high="0.9" optimum="0" value="${Math.min(1, used / allowed).toFixed(4)}">${share(used / allowed)}</meter>
    <p>${share(used / allowed)} of it used ${since}: ${amount(used)} of ${amount(allowed)}</p>
    <p class="soft">${amount(Math.floor(quota.available))} of ${amount(Math.floor(quota.capacity))} tokens are left
      now${kept}; ${perSecond(quota.rate_per_s)} a second come back (${share(quota.utilization)} of the quota)</p>
  </div>`
}

function sinceDay(usedS: number): string {
  const days = Math.ceil(usedS / 86_400)
  return days === 1 ? 'today (UTC)' : `in ${days} days (UTC)`
}

function described(settings: ProviderSettings, now: Date) {
  const { credentials_env: variable, base_url: url, breaker_share: most } = settings
  return [
    ['Paused', momentAndAge(settings.paused_at, now)],
    ['Paused by', settings.paused_by],
    ['Credentials', variable === null ? null : `in the variable ${variable} of each worker`],
    ['Address', url],
    ['It says that remain', settings.remaining === null ? null : amount(settings.remaining)],
    ['Kept for urgent mail', `its last ${amount(settings.reserve)} requests, where it says how many remain`],
    ['Breaker', settings.breaker.replace('_', '-')],
    [
      'Last 60 s',
      `${amount(settings.requests_60s)} requests, ${amount(settings.faults_60s)} failed by its fault`,
    ],
    [
      'The breaker opens at',
      `${share(most)} of at least ${settings.breaker_volume} requests in 60 s, or ${settings.breaker_run} faults in a row`,
    ],
    [
      'and stays so for',
      `${span(settings.breaker_cooldown_s)}, up to ${span(settings.breaker_cooldown_cap_s)}`,
    ],
  ] as const
}

function waitingTable(name: string, { depths }: Snapshot): Html {
  return table({
    caption: 'What waits for it',
    empty: 'No mail waits for it.',
    rows: depths.filter((each) => each.provider === name && each.ready + each.deferred + each.in_flight > 0),
    columns: [
      {
        name: 'Stream',
        cell: ({ stream }) => html`<a href="/dashboard/streams/${stream}">${stream}</a>`,
      },
      { name: 'Ready', kind: 'number', cell: ({ ready }) => amount(ready) },
      { name: 'Deferred', kind: 'number', cell: ({ deferred }) => amount(deferred) },
      { name: 'In flight', kind: 'number', cell: ({ in_flight: inFlight }) => amount(inFlight) },
      {
        name: 'Oldest',
        kind: 'number',
        cell: ({ oldest_age_s: age, ready }) => (age === null || ready === 0 ? null : span(age)),
      },
      { name: 'In', kind: 'number', cell: ({ in_per_s: rate }) => `${perSecond(rate)}/s` },
      { name: 'Out', kind: 'number', cell: ({ out_per_s: rate }) => `${perSecond(rate)}/s` },
    ],
  })
}
