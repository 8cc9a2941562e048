/**
 * What hostile templates and hostile data may try. Each attack must end, as a failure or harmlessly, within the hard
 * stop and the time a new thread takes to start; the process must live on, with its memory bounded.
 */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { RENDER_FAILURES } from '../../src/processing/render/contract.ts'
import { createRenderPool } from '../../src/processing/render/render-pool.ts'
import { ATTACKS } from './template-attacks.ts'

/** Of work, threads that had to be started anew included: how long that takes is a matter of who else works. */
const BOUND_CPU_MS = 5_000
const BOUND_RSS_BYTES = 300 * 1024 * 1024
const pool = createRenderPool({ hardStopMs: 500 })

describe('an attack ends', () => {
  after(() => pool.stop())

  for (const [name, { html, variables = {}, partials = {}, ends }] of Object.entries(ATTACKS)) {
    test(name, async () => {
      const used = Object.entries(partials).map(([name, source]) => ({ name, html: source, text: null }))
      const template = {
        key: `${name}@1`,
        subject: null,
        html,
        text: null,
        partials: used,
        onMissing: 'list' as const,
      }
      const before = process.cpuUsage()
      const { results } = await pool.render([{ id: name, template, variables }])
      const { user, system } = process.cpuUsage(before)
      assert.ok((user + system) / 1_000 < BOUND_CPU_MS)
      const [result] = results
      assert.ok(result)
      if (result.ok)
        assert.ok(
          ends === 'any' || typeof ends === 'object',
          `rendered ${result.rendered.html?.slice(0, 80)}`,
        )
      else assert.ok(RENDER_FAILURES.includes(result.code))
      if (typeof ends === 'object')
        assert.deepEqual(result.ok && result.rendered, ends, JSON.stringify(result))
      else if (ends !== 'any')
        assert.equal(result.ok ? 'rendered' : result.code, ends, JSON.stringify(result))
      assert.equal('polluted' in {}, false)
    })
  }

  test('and the process has not grown beyond its bounds', () => {
    assert.ok(process.memoryUsage.rss() < BOUND_RSS_BYTES, `resident: ${process.memoryUsage.rss()}`)
  })
})
