import uPlot from './uplot.js'

/* The last hour as plots, with what live.js hears added to their end. */

const HISTORY = '/dashboard/history.json'
const SYNC = { key: 'overview' }
const HEIGHT = 190

const compact = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 })

function amount(value) {
  return Math.abs(value) < 1_000
    ? String(Number(value.toFixed(1)))
    : compact
        .format(value)
        .replace('K', 'k')
        .replace(/([kMBT])$/, '\u00a0$1')
}

function seconds(value) {
  if (value < 1) return `${Math.round(value * 1_000)} ms`
  if (value < 120) return `${Number(value.toFixed(1))} s`
  return value < 7_200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3_600)} h`
}

/** Lines differ by their dashes as well as by their colour. */
const PLOTS = {
  waiting: {
    format: amount,
    series: [
      { name: 'doors', label: 'At the doors', colour: '--series-1' },
      { name: 'processing', label: 'For processing', colour: '--series-2', dash: [6, 3] },
      { name: 'dispatch', label: 'For dispatch', colour: '--series-3', isFilled: true },
      { name: 'deferred', label: 'Deferred', colour: '--series-4', dash: [2, 3] },
    ],
  },
  rates: {
    format: (value) => `${amount(value)}/s`,
    series: [
      { name: 'accepted_per_s', label: 'Accepted', colour: '--series-1' },
      { name: 'sent_per_s', label: 'Sent', colour: '--series-3', isFilled: true },
      { name: 'dead_per_s', label: 'Dead', colour: '--series-5', dash: [2, 3] },
    ],
  },
  times: {
    format: seconds,
    series: [
      { name: 'p50_s', label: 'p50', colour: '--series-1' },
      { name: 'p95_s', label: 'p95', colour: '--series-4', dash: [6, 3] },
    ],
  },
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
const timeOf = (at) => new Date(at * 1_000).toISOString()

let history
const drawn = []

async function load() {
  const response = await fetch(HISTORY, { headers: { Accept: 'application/json' } })
  // Whoever has signed out meanwhile is shown the page to sign in.
  if (!response.headers.get('Content-Type')?.startsWith('application/json')) return
  history = await response.json()
  draw()
}

function draw() {
  if (drawn.length > 0) {
    for (const { plot, series } of drawn) plot.setData(dataOf(series))
    return
  }
  for (const figure of document.querySelectorAll('[data-plot]')) {
    const { series, format } = PLOTS[figure.dataset.plot]
    figure.hidden = false
    const place = figure.querySelector('.canvas')
    const plot = new uPlot(optionsOf(figure, series, format), dataOf(series), place)
    plot.root.setAttribute('aria-hidden', 'true')
    drawn.push({ plot, series })
    new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place)
  }
}

function dataOf(series) {
  return [history.at, ...series.map(({ name }) => history[name])]
}

function optionsOf(figure, series, format) {
  const grid = { stroke: () => colour('--line'), width: 1 }
  const axis = { stroke: () => colour('--soft'), grid, ticks: grid, font: '12px system-ui' }
  return {
    width: figure.querySelector('.canvas').clientWidth || 320,
    height: HEIGHT,
    cursor: { sync: SYNC, drag: { x: false, y: false } },
    scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [
      { ...axis, values: (_, splits) => splits.map((at) => timeOf(at).slice(11, 16)), space: 60 },
      { ...axis, values: (_, splits) => splits.map(format), size: 58 },
    ],
    series: [
      { label: 'Time', value: (_, at) => (at === null ? '–' : timeOf(at).slice(11, 19)) },
      ...series.map((each) => ({
        label: each.label,
        stroke: () => colour(each.colour),
        width: 1.75,
        ...(each.dash && { dash: each.dash }),
        ...(each.isFilled && { fill: () => `color-mix(in srgb, ${colour(each.colour)} 15%, transparent)` }),
        points: { show: false },
        value: (_, value) => (value === null ? '–' : format(value)),
      })),
    ],
  }
}

/** The latest ten seconds, some of them again: what is written late counts too. */
function add(latest) {
  if (history === undefined) return
  const last = history.at.at(-1) ?? 0
  if (latest.at[0] > last + history.step_s) {
    // Between sleeping and waking more has passed than came.
    load()
    return
  }
  const keep = history.at.findIndex((at) => at >= latest.at[0])
  const size = history.at.length
  for (const [name, column] of Object.entries(history)) {
    if (Array.isArray(column))
      history[name] = [...column.slice(0, keep === -1 ? size : keep), ...latest[name]].slice(-size)
  }
  draw()
}

document.addEventListener('sluice:points', ({ detail }) => add(detail))
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const { plot } of drawn) plot.redraw(false, true)
})
load()
