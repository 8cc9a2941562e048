import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { test } from 'node:test'
import { BENCHMARK_NAMES, usualNames } from '../scripts/bench/benchmarks.ts'
import { readCommand } from '../scripts/bench/command-line.ts'
import { waitsAmong } from '../scripts/bench/commit-waits.ts'
import { footprint } from '../scripts/bench/footprint.ts'
import { Guard } from '../scripts/bench/guard.ts'
import { performanceText, type Recorded } from '../scripts/bench/performance-document.ts'
import { plotText } from '../scripts/bench/plot.ts'
import { DOCUMENT, readRecord } from '../scripts/bench/record.ts'
import type { Rig } from '../scripts/bench/rig.ts'
import { FULL, QUICK } from '../scripts/bench/sizes.ts'
import { mergeMeasured, TARGETS, targetsTable } from '../scripts/bench/targets.ts'
import { createTestDatabase } from './support/database.ts'

const document = readFileSync(DOCUMENT, 'utf8')

test('the figures in the document are those that were recorded, and each benchmark is explained', () => {
  assert.equal(document, performanceText(document, readRecord()))
  assert.deepEqual(
    BENCHMARK_NAMES.filter(
      (name) => !document.includes(`**${name}.**`) && !document.includes(`**${name}** `),
    ),
    [],
  )
})

const RECORDED: Recorded = {
  name: 'idle',
  on: '2026-11-22',
  machine: '2 cores.\nOne small commit takes 1 ms.',
  tookS: 61,
  text: 'what was found',
  measured: { idleMedian: { value: 9.5, of: '500 mails' } },
}

test('recorded figures replace what stood between the marks, and nothing else', () => {
  const [before = '', after = ''] = ['# Performance\n\n', '\n\n## Where the time goes\n']
  const marked = (figures: string) =>
    `${before}<!-- figures: written by npm run bench -- --record -->${figures}<!-- end of figures -->${after}`
  const written = performanceText(marked('old'), { targets: RECORDED.measured, benchmarks: [RECORDED] })
  assert.ok(written.startsWith(before) && written.endsWith(after))
  assert.match(
    written,
    /### idle\n\nOn 2026-11-22, in 61 s\. 2 cores\. One small commit takes 1 ms\.\n\nwhat was found/,
  )
  assert.match(written, /\| +9\.50 ms \| +met \| +500 mails \|/)
  assert.doesNotMatch(written, /old/)
  assert.equal(
    performanceText(written, { targets: RECORDED.measured, benchmarks: [RECORDED] }),
    written,
    'twice is once',
  )
  assert.throws(() => performanceText('# Performance', { targets: {}, benchmarks: [] }), /lacks/)
})

test('a commit that takes long is waited for by all who come meanwhile, and by each then for one more', () => {
  const commits = [
    { beganAt: 0, endedAt: 3 },
    { beganAt: 4, endedAt: 5 },
    { beganAt: 8, endedAt: 9 },
  ]
  assert.deepEqual(waitsAmong(commits), [4, 3, 2, 1, 2, 1, 1, 1])
  assert.deepEqual(waitsAmong(commits.slice(0, 1)), [])
})

test('the table of targets has all of them: met, missed, or not run and where to run it', () => {
  const measured = mergeMeasured([
    { memory: { value: 250, of: 'accept' }, idleSlow: { value: 40.1, of: '500 mails' } },
    { memory: { value: 310, of: 'burst' }, acceptance: { value: 5_000, of: '10 s' } },
    { memory: { value: Number.NaN, of: 'nobody' }, burstLost: { value: 0, of: 'all' } },
  ])
  const lines = targetsTable(measured).split('\n').slice(2)
  assert.equal(lines.length, Object.keys(TARGETS).length)
  const verdictOf = (what: string) =>
    lines
      .find((line) => line.startsWith(`| ${what} `))
      ?.split('|')
      .slice(3, 6)
      .map((cell) => cell.trim())
  assert.deepEqual(verdictOf(TARGETS.idleSlow.what), ['40.1 ms', 'missed', '500 mails'])
  assert.deepEqual(verdictOf(TARGETS.acceptance.what), ['5,000 /s', 'met', '10 s'])
  assert.deepEqual(verdictOf(TARGETS.burstLost.what), ['0 mails', 'met', 'all'])
  assert.deepEqual(verdictOf(TARGETS.memory.what), ['310 MB', 'missed', 'burst'], 'the highest counts')
  assert.deepEqual(verdictOf(TARGETS.backlog.what), ['-', 'not run', 'backlog'])
})

test('the plot is an image whatever was run', () => {
  const rates = [
    { contender: 'Sluice & <sons>', perS: 1_200, isOurs: true },
    { contender: 'bare loop', perS: 600, isOurs: false },
  ]
  const latencies = [1, 8, 64].map((connections) => ({ door: 'outbox', connections, p99Ms: connections * 2 }))
  const full = plotText([{ rates }, { latencies }])
  assert.match(full, /Sluice &amp; &lt;sons>/)
  // The longest bar takes the whole width, the other half of it.
  const widths = [...full.matchAll(/<rect x="240" [^>]*width="([\d.]+)"/g)].map(([, width]) => Number(width))
  assert.deepEqual(widths, [190, 95])
  assert.equal([...full.matchAll(/<circle/g)].length, latencies.length)
  const single = plotText([{ latencies: latencies.slice(0, 1) }])
  assert.match(single, /end-to-end did not run/)
  for (const svg of [full, single, plotText([])]) {
    assert.doesNotMatch(svg, /NaN|Infinity|undefined/)
    assert.equal([...svg.matchAll(/<text/g)].length, [...svg.matchAll(/<\/text>/g)].length)
    assert.match(svg, /^<svg [\s\S]*<\/svg>\n$/)
  }
})

test('without a name all usual benchmarks run in full, with --quick all of them in small', () => {
  const full = readCommand([])
  assert.ok(typeof full === 'object')
  assert.deepEqual(full.names, usualNames())
  assert.equal(full.options.messages, FULL.messages)
  assert.equal(full.options.burst.scale, 1)
  const quick = readCommand(['idle', '--quick', '--rounds', '2', '--waiting', '900,300'])
  assert.ok(typeof quick === 'object')
  assert.deepEqual(quick.names, ['idle'])
  assert.deepEqual(quick.options.waiting, [300, 900])
  assert.deepEqual([quick.options.messages, quick.options.rounds], [QUICK.messages, 2])
  assert.ok(quick.options.burst.scale < 0.1)
  assert.equal(readCommand(['--help']), 'help')
  for (const wrong of [
    ['nothing'],
    ['--messages', '0'],
    ['--waiting', '1,x'],
    ['--what'],
    ['--door', 'post'],
  ]) {
    assert.equal(typeof readCommand(wrong), 'string', wrong.join(' '))
  }
  assert.match(String(readCommand(['--quick', '--record'])), /worth keeping/)
})

test('a benchmark runs Sluice as users do, and says what it found', async (t) => {
  const { url } = await createTestDatabase(t)
  const memory: number[] = []
  const rig: Rig = {
    guard: new Guard(),
    // Its own family stands for that of the suite's Postgres, which belongs to another process.
    postgres: { name: 'postgres', pid: process.pid, family: true },
    dir: tmpdir(),
    createDatabase: async () => url,
    noteMemory: (mb) => memory.push(mb),
    takeHighestMemory: () => ({ mb: Math.max(...memory), roles: 'api' }),
    close: async () => undefined,
  }
  const command = readCommand(['footprint', '--quick'])
  assert.ok(typeof command === 'object')
  const { lost, text } = await footprint(rig, { ...command.options, footprintMails: 20 })
  assert.equal(lost, 0)
  assert.match(text, /\| database +\| +\d/)
  assert.match(text, /\| mail\.message_content +\| +\d/)
  assert.equal(memory.length, 2, 'of both processes')
  assert.ok(Math.min(...memory) > 50, 'what a process of Node holds at the least')
})
