import { html } from 'hono/html'
import type { Html } from './frame.ts'

/** Numbers as people read them: short, with their unit, and no more digits than say something. */

const COUNT = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 })
const WHOLE = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })

/** `987`, `1.2 k`, `3.4 M`. */
export function amount(count: number): string {
  if (Math.abs(count) < 999.5) return WHOLE.format(count)
  return COUNT.format(Math.round(count))
    .replace('K', 'k')
    .replace(/([kMBT])$/, '\u00a0$1')
}

/** `0`, `0.2`, `12`, `1.2 k`: of something a second. */
export function perSecond(rate: number): string {
  if (rate === 0) return '0'
  if (Math.abs(rate) < 0.05) return rate < 0 ? '> -0.1' : '< 0.1'
  return Math.abs(rate) < 10 ? String(Number(rate.toFixed(1))) : amount(rate)
}

/** `40 ms`, `2.5 s`, `3 min`, `2 h 10 min`, `4 d`. */
export function span(seconds: number): string {
  if (seconds < 0.001) return '0 s'
  if (seconds < 0.9995) return `${Math.round(seconds * 1_000)} ms`
  if (seconds < 9.95) return `${Number(seconds.toFixed(1))} s`
  if (seconds < 99.5) return `${Math.round(seconds)} s`
  const minutes = Math.round(seconds / 60)
  if (minutes < 60) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  if (hours < 10 && minutes % 60 !== 0) return `${hours} h ${minutes % 60} min`
  if (hours < 48) return `${Math.round(minutes / 60)} h`
  return `${Math.round(minutes / 1_440)} d`
}

/** `0 %`, `0.4 %`, `12 %`. */
export function share(part: number): string {
  const percent = part * 100
  if (percent > 0 && percent < 0.1) return '< 0.1 %'
  return `${Number(percent.toFixed(percent < 10 ? 1 : 0))} %`
}

/** A moment and how long ago that is, or how soon it will be. */
export function momentAndAge(at: Date | string | null, now: Date): Html | null {
  if (at === null) return null
  const moment = new Date(at)
  if (Number.isNaN(moment.getTime())) return null
  const iso = moment.toISOString()
  const seconds = (now.getTime() - moment.getTime()) / 1_000
  const age = Math.abs(seconds) < 1 ? 'now' : seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`
  return html`<time datetime="${iso}">${iso.slice(0, 10)} ${iso.slice(11, 19)}</time> <span class="soft">(${age})</span>`
}
