import { html } from 'hono/html'
import { counted } from './elements.ts'
import type { Html } from './frame.ts'
import { type AlertLine, MAX_ALERTS, type Snapshot } from './live-queries.ts'
import type { Trouble } from './trouble.ts'

export const SEVERITY_TONES = { critical: 'bad', warning: 'warn' } as const

/** What fired and is not over: their sentences hold numbers that move, so nobody is read them as they change. */
export function openAlerts({ alerts }: Snapshot): Html {
  if (alerts.length === 0) return html``
  return html`<section class="card" aria-labelledby="alerts-title">
    <h2 id="alerts-title"><a href="/dashboard/alerts">Open alerts</a></h2>
    <ul class="troubles">
      ${alerts.map(
        ({ id, severity, what, acknowledged_by: by }) =>
          html`<li><span class="state ${SEVERITY_TONES[severity]}">${severity}</span>
            <span><bdi>${what}</bdi> ${by !== null && html`<span class="soft"><bdi>${by}</bdi> looks after it.</span>`}
              <a href="/dashboard/alerts#${id}">What to do</a></span></li>`,
      )}
    </ul>
  </section>`
}

/** How it is going in one line, and what needs a person. Read aloud when it changes: so it holds no number that moves. */
export function summary(troubles: readonly Trouble[], alerts: readonly AlertLine[]): Html {
  if (troubles.length === 0 && alerts.length === 0) {
    return html`<p class="verdict good"><strong>Mail flows.</strong> Nothing needs you.</p>`
  }
  const isBad =
    troubles.some(({ tone }) => tone === 'bad') || alerts.some(({ severity }) => severity === 'critical')
  const open = `${alerts.length === MAX_ALERTS ? 'At least ' : ''}${counted(alerts.length, 'alert is', 'alerts are')} open.`
  const words = [
    alerts.length > 0 ? open : '',
    troubles.length > 0 ? `${counted(troubles.length, 'thing needs', 'things need')} a look.` : '',
  ]
  return html`<p class="verdict ${isBad ? 'bad' : 'warn'}"><strong>${words.join(' ').trim()}</strong></p>
    <ul class="troubles">
      ${troubles.map(
        ({ tone, words: said, path, link }) =>
          html`<li><span class="state ${tone}">${tone === 'bad' ? 'trouble' : 'notice'}</span>
            <span><bdi>${said}</bdi> <a href="${path}">${link}</a></span></li>`,
      )}
    </ul>`
}
