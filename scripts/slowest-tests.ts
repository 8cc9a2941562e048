import { relative } from 'node:path'
import type { TestEvent } from 'node:test/reporters'

/** A reporter of node:test: at the end the slowest tests, each with its file. Subtests count with their parent. */
// biome-ignore lint/style/noDefaultExport: a reporter is what its module exports by default
export default async function* slowestTests(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const tests: { tookMs: number; file: string; name: string }[] = []
  for await (const { type, data } of events) {
    if (type !== 'test:pass' && type !== 'test:fail') continue
    if (data.nesting === 0 && data.details.type !== 'suite') {
      tests.push({ tookMs: data.details.duration_ms, file: relative('.', data.file ?? ''), name: data.name })
    }
  }
  yield '\nThe slowest tests:\n'
  const count = Number(process.env.SLUICE_TEST_SLOWEST)
  for (const { tookMs, file, name } of tests.sort((a, b) => b.tookMs - a.tookMs).slice(0, count)) {
    yield `${(tookMs / 1_000).toFixed(1).padStart(7)} s  ${file}: ${name}\n`
  }
}
