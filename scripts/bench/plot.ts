/** The two figures worth a look at once, as an SVG: how much is sent by whom, and how long a client waits for its answer. */

export type Rate = { readonly contender: string; readonly perS: number; readonly isOurs: boolean }
export type Latency = { readonly door: string; readonly connections: number; readonly p99Ms: number }
/** What a benchmark has to show; most have nothing. */
export type PlotData = { readonly rates?: readonly Rate[]; readonly latencies?: readonly Latency[] }

const WIDTH = 1_000
const TOP = 56
const BAR = { x: 240, width: 190, height: 18, step: 30 }
const CHART = { x: 560, width: 260, height: 250 }
const OURS = '#0b6e8a'
const OTHERS = '#b4bac2'
/** Told apart with any kind of colour vision (Okabe and Ito), and each line has its name beside its end. */
const LINES = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9']
const INK = '#222'
const FAINT = '#dfe3e8'

/** Benchmarks that did not run leave their half empty, and say so. */
export function plotText(plots: readonly PlotData[]): string {
  const rates = plots.flatMap((plot) => plot.rates ?? [])
  const latencies = plots.flatMap((plot) => plot.latencies ?? [])
  const height = Math.max(TOP + CHART.height + 60, TOP + rates.length * BAR.step + 30)
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="system-ui, sans-serif" font-size="13" fill="${INK}">`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    text(20, 28, 'Order confirmations sent a second', 'font-size="15" font-weight="600"'),
    ...(rates.length === 0 ? [text(20, TOP + 20, 'end-to-end did not run')] : bars(rates)),
    text(
      CHART.x - 40,
      28,
      'Time until the answer, p99 in ms, by clients',
      'font-size="15" font-weight="600"',
    ),
    ...(latencies.length === 0 ? [text(CHART.x - 40, TOP + 20, 'accept did not run')] : lines(latencies)),
    '</svg>',
    '',
  ].join('\n')
}

function bars(rates: readonly Rate[]): string[] {
  const most = Math.max(...rates.map(({ perS }) => perS), 1)
  return rates
    .toSorted((a, b) => b.perS - a.perS)
    .flatMap(({ contender, perS, isOurs }, index) => {
      const y = TOP + index * BAR.step
      const width = (perS / most) * BAR.width
      const middle = y + BAR.height / 2 + 5
      return [
        text(BAR.x - 10, middle, contender, 'text-anchor="end"'),
        `<rect x="${BAR.x}" y="${y}" width="${width.toFixed(1)}" height="${BAR.height}" rx="2" fill="${isOurs ? OURS : OTHERS}"/>`,
        text(
          BAR.x + width + 6,
          middle,
          Math.round(perS).toLocaleString('en-US'),
          isOurs ? 'font-weight="600"' : '',
        ),
      ]
    })
}

type Scale = { readonly x: (connections: number) => number; readonly y: (ms: number) => number }

/** Both axes are logarithmic: a line that rises by a square says that the wait grows with the number of clients. */
function lines(latencies: readonly Latency[]): string[] {
  const counts = [...new Set(latencies.map(({ connections }) => connections))].sort((a, b) => a - b)
  const [least, most] = powersAround(latencies.map(({ p99Ms }) => p99Ms))
  const place = (value: number, from: number, to: number) =>
    to === from ? 0.5 : Math.log(value / from) / Math.log(to / from)
  const scale: Scale = {
    x: (connections) => CHART.x + place(connections, counts[0] ?? 1, counts.at(-1) ?? 1) * CHART.width,
    y: (ms) => TOP + CHART.height - place(ms, least, most) * CHART.height,
  }
  return [...grid(scale, counts, least, most), ...curves(scale, latencies)]
}

/** The powers of ten at and beyond the ends. */
function powersAround(values: readonly number[]): [number, number] {
  const least = 10 ** Math.floor(Math.log10(Math.min(...values)))
  const most = 10 ** Math.ceil(Math.log10(Math.max(...values)))
  return [least, most === least ? least * 10 : most]
}

function grid({ x, y }: Scale, counts: readonly number[], least: number, most: number): string[] {
  const marks: string[] = []
  for (let ms = least; ms <= most * 1.001; ms *= 10) {
    marks.push(
      `<path d="M${CHART.x} ${at(y(ms))}h${CHART.width}" stroke="${FAINT}"/>`,
      text(CHART.x - 10, y(ms) + 4, String(Number(ms.toPrecision(1))), 'text-anchor="end"'),
    )
  }
  const below = TOP + CHART.height + 20
  const named = counts.map((count) => text(x(count), below, String(count), 'text-anchor="middle"'))
  return [
    ...marks,
    ...named,
    text(CHART.x + CHART.width / 2, below + 20, 'clients at once', 'text-anchor="middle"'),
  ]
}

const LABEL_HEIGHT = 16

function curves({ x, y }: Scale, latencies: readonly Latency[]): string[] {
  const byDoor = [...Map.groupBy(latencies, ({ door }) => door)]
  const ends = byDoor
    .map(([door, own], index) => {
      const points = own.toSorted((a, b) => a.connections - b.connections)
      const last = points.at(-1)
      const colour = LINES[index % LINES.length] ?? INK
      return { door, points, colour, x: x(last?.connections ?? 1), y: y(last?.p99Ms ?? 1) }
    })
    .sort((a, b) => a.y - b.y)
  let lowest = Number.NEGATIVE_INFINITY
  return ends.flatMap(({ door, points, colour, y: end }) => {
    // Names that would cover each other move down.
    lowest = Math.max(end, lowest + LABEL_HEIGHT)
    const path = points.map(({ connections, p99Ms }) => `${at(x(connections))} ${at(y(p99Ms))}`).join('L')
    const dots = points.map(
      ({ connections, p99Ms }) =>
        `<circle cx="${at(x(connections))}" cy="${at(y(p99Ms))}" r="3" fill="${colour}"/>`,
    )
    return [
      `<path d="M${path}" fill="none" stroke="${colour}" stroke-width="2"/>`,
      ...dots,
      text(CHART.x + CHART.width + 14, lowest + 4, door, `fill="${colour}"`),
    ]
  })
}

function at(pixels: number): string {
  return pixels.toFixed(1)
}

function text(x: number, y: number, words: string, attributes = ''): string {
  const safe = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
  return `<text x="${at(x)}" y="${at(y)}"${attributes === '' ? '' : ` ${attributes}`}>${safe}</text>`
}
