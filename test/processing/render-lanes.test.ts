import assert from 'node:assert/strict'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { Worker } from 'node:worker_threads'
import { RenderPoolError, type RenderRequest } from '../../src/processing/render/contract.ts'
import {
  createRenderPool,
  type RenderPool,
  type RenderPoolOptions,
} from '../../src/processing/render/render-pool.ts'

/** Compares two large arrays within one tag, where the engine does not look at its clock. */
const STUCK = `{% assign e = "" | split: "," %}{% assign a = e %}${'{% assign a = e | push: a | push: a %}'.repeat(16)}{% if stuck %}{% if ${'a == a and '.repeat(900)}true %}{% endif %}{% endif %}`
/** Pairs every element with its key at once: several times what a thread of HOARDED_HEAP_MB has. */
const HOARDING = '{% assign a = (1..250000) | sort %}'
const HOARDED_HEAP_MB = 16

function message(id: string, html: string, variables: Record<string, unknown> = {}): RenderRequest {
  return {
    id,
    template: { key: `${html.length}@${html.slice(0, 40)}`, subject: null, html, text: null },
    variables,
  }
}
const good = (id: string) => message(id, 'Hello {{ name }}', { name: id })
const stuck = (id: string) => message(id, STUCK, { stuck: true })

async function withPool(
  options: RenderPoolOptions,
  body: (pool: RenderPool) => Promise<void>,
): Promise<void> {
  const pool = createRenderPool({ hardStopMs: 300, ...options })
  try {
    await body(pool)
  } finally {
    await pool.stop()
  }
}

async function codes(pool: RenderPool, requests: readonly RenderRequest[]) {
  const { results, deferred } = await pool.render(requests)
  return { codes: results.map((result) => `${result.id} ${result.ok ? 'ok' : result.code}`), deferred }
}

/** Some milliseconds, and the same for each. */
const slow = (id: string) => message(id, '{% for i in (1..2000) %}{% assign a = i | times: 2 %}{% endfor %}')

/** On a crowded machine none of them is taken for stuck. */
const PATIENT: RenderPoolOptions = { slowMs: 20_000, hardStopMs: 20_000 }

describe('batches that meet in one thread', () => {
  test('go by their priority, also past one that has begun', async () => {
    await withPool(PATIENT, async (pool) => {
      await pool.render([slow('a'), good('b')])
      const finished: string[] = []
      const note = (name: string) => () => void finished.push(name)
      const newsletter = Array.from({ length: 90 }, (_, n) => slow(`news ${n}`))
      await Promise.all([
        pool.render(newsletter, 7).then(note('newsletter')),
        pool.render(newsletter, 5).then(note('orders')),
        pool.render([good('reset')], 3).then(note('reset')),
      ])
      assert.deepEqual(finished, ['reset', 'orders', 'newsletter'])
    })
  })

  test('take turns when none is more urgent, and each is whole and in its order', async () => {
    await withPool(PATIENT, async (pool) => {
      await pool.render([slow('a'), good('b')])
      const finished: string[] = []
      const many = Array.from({ length: 90 }, (_, n) => slow(`${n}`))
      const [all, few] = await Promise.all([
        pool.render(many).finally(() => finished.push('many')),
        pool.render([good('x'), good('y')]).finally(() => finished.push('few')),
      ])
      assert.deepEqual(finished, ['few', 'many'])
      assert.deepEqual(
        [all, few].map(({ results }) => results.map(({ id, ok }) => (ok ? id : `${id} failed`))),
        [many.map(({ id }) => id), ['x', 'y']],
      )
    })
  })
})

describe('a message that does not end', () => {
  test('is stopped, and the rest of its batch is rendered; only alone it is given up', async () => {
    await withPool({}, async (pool) => {
      const batch = [good('a'), good('b'), stuck('c'), good('d')]
      assert.deepEqual(await codes(pool, batch), {
        codes: ['a ok', 'b ok', 'd ok'],
        deferred: ['c'],
      })
      assert.deepEqual(await codes(pool, [stuck('c')]), { codes: ['c template_timeout'], deferred: [] })
    })
  })

  test('defers the other messages of its template in the batch', async () => {
    await withPool({}, async (pool) => {
      const { codes: settled, deferred } = await codes(pool, [stuck('a'), good('b'), stuck('c'), stuck('d')])
      assert.deepEqual(settled, ['b ok'])
      assert.deepEqual(deferred, ['a', 'c', 'd'])
    })
  })

  test('makes its template suspect: deferred from a mixed batch, tried in a batch of its own', async () => {
    await withPool({}, async (pool) => {
      await pool.render([stuck('a')])
      assert.deepEqual(await codes(pool, [stuck('b'), good('c')]), { codes: ['c ok'], deferred: ['b'] })
      assert.deepEqual(await codes(pool, [stuck('b'), message('d', STUCK)]), {
        codes: ['b template_timeout', 'd ok'],
        deferred: [],
      })
    })
  })

  test('holds up nobody once its template is suspect', async () => {
    await withPool({}, async (pool) => {
      await pool.render([stuck('a')])
      const finished: string[] = []
      const note = (name: string) => () => void finished.push(name)
      await Promise.all([
        pool.render([stuck('b'), stuck('c')]).then(note('stuck')),
        pool.render([good('d')]).then(note('good')),
      ])
      assert.deepEqual(finished, ['good', 'stuck'])
    })
  })

  test('is no longer suspect after a while', async () => {
    let clockMs = 0
    await withPool({ now: () => clockMs, suspectForMs: 1_000 }, async (pool) => {
      await pool.render([stuck('a')])
      clockMs = 999
      assert.deepEqual((await codes(pool, [message('b', STUCK), good('c')])).deferred, ['b'])
      clockMs = 1_000
      assert.deepEqual((await codes(pool, [message('b', STUCK), good('c')])).deferred, [])
    })
  })

  test('delays a check by one message at most', async () => {
    await withPool({}, async (pool) => {
      await pool.render([stuck('a')])
      const finished: string[] = []
      const note = (name: string) => () => void finished.push(name)
      const source = { key: 'draft', subject: null, html: '{{ a }}', text: null }
      await Promise.all([
        pool.render([stuck('b'), stuck('c'), stuck('d')]).then(note('stuck')),
        pool.check(source).then(note('check')),
      ])
      assert.deepEqual(finished, ['check', 'stuck'])
    })
  })

  test('also ends a check', async () => {
    await withPool({}, async (pool) => {
      const html = `{% # x${'\n'.repeat(60_000)}# %}`
      const result = await pool.check({ key: 'draft', subject: null, html, text: null })
      assert.equal(result.ok ? 'ok' : result.code, 'template_timeout')
      assert.deepEqual(await pool.check({ key: 'draft', subject: null, html: '', text: null }), { ok: true })
    })
  })
})

test('a slow template is suspect as well, and the rest of its messages deferred', async () => {
  await withPool({ slowMs: 0 }, async (pool) => {
    const slow = (id: string) => message(id, '{% for i in (1..20000) %}{{ i }}{% endfor %}')
    const { codes: settled, deferred } = await codes(pool, [slow('a'), slow('b'), good('c')])
    assert.deepEqual([settled, deferred], [['a ok', 'c ok'], ['b']])
  })
})

test('a batch of which all became suspect while it waited is rendered, not deferred', async () => {
  await withPool({ hardStopMs: 1_000 }, async (pool) => {
    const [first, second] = await Promise.all([codes(pool, [stuck('a')]), codes(pool, [message('b', STUCK)])])
    assert.deepEqual(first, { codes: ['a template_timeout'], deferred: [] })
    assert.deepEqual(second, { codes: ['b ok'], deferred: [] })
  })
})

test('a message that uses up the memory of its thread fails alone', async () => {
  await withPool({ threadHeapMb: HOARDED_HEAP_MB, hardStopMs: 10_000 }, async (pool) => {
    assert.deepEqual(await codes(pool, [good('a'), message('b', HOARDING), good('c')]), {
      codes: ['a ok', 'b template_memory', 'c ok'],
      deferred: [],
    })
  })
})

test('a pool that cannot start its thread blames no message', async () => {
  await withPool({ threadHeapMb: 4 }, async (pool) => {
    const isFailed = (error: unknown) =>
      error instanceof RenderPoolError && error.code === 'render_thread_failed'
    await assert.rejects(pool.render([good('a')]), isFailed)
  })
})

test('results come in the order asked, whatever fails before a thread sees it', async () => {
  await withPool({}, async (pool) => {
    const batch = [good('a'), message('b', '{{ a', {}), message('c', 'x', { n: 1n }), good('d')]
    assert.deepEqual((await codes(pool, batch)).codes, [
      'a ok',
      'b template_syntax',
      'c variables_invalid',
      'd ok',
    ])
    assert.deepEqual(await pool.render([]), { results: [], deferred: [] })
  })
})

test('more templates than a thread keeps, and more data than one post carries, all render', async () => {
  await withPool({}, async (pool) => {
    const many = Array.from({ length: 1_200 }, (_, index) =>
      message(String(index), `{{ a }} ${index}`, { a: index % 40 === 0 ? 'x'.repeat(200_000) : 'x' }),
    )
    for (const batch of [many, many.slice(0, 100)]) {
      const { results } = await pool.render(batch)
      const ends = results.map((result) => (result.ok ? result.rendered.html?.split(' ')[1] : result.code))
      assert.deepEqual(
        ends,
        batch.map(({ id }) => id),
      )
    }
  })
})

describe('the thread of suspects', () => {
  const started: Worker[] = []
  const note = (message: unknown) => void started.push((message as { worker: Worker }).worker)
  beforeEach(() => {
    started.length = 0
    diagnostics.subscribe('worker_threads', note)
  })
  afterEach(() => void diagnostics.unsubscribe('worker_threads', note))

  test('ends when it has nothing to do, and another one starts when there is', {
    timeout: 60_000,
  }, async () => {
    await withPool({ ...PATIENT, suspectKeptMs: 1 }, async (pool) => {
      await pool.render([good('common')])
      for (const _ of ['first', 'second']) {
        assert.deepEqual(await pool.check(good('draft').template), { ok: true })
        const suspect = started.at(-1)
        if (suspect !== undefined && suspect.threadId !== -1) await once(suspect, 'exit')
      }
      assert.equal(started.length, 3)
      assert.deepEqual(await codes(pool, [good('common')]), { codes: ['common ok'], deferred: [] })
      assert.equal(started.length, 3)
    })
  })

  test('is kept while it works, however long that takes', { timeout: 60_000 }, async () => {
    await withPool({ ...PATIENT, suspectKeptMs: 1 }, async (pool) => {
      const draft = message('draft', '{% for i in (1..6000) %}{% assign a = i | times: 2 %}{% endfor %}done')
      await pool.check(good('draft').template)
      const { ok } = await pool.preview(draft.template, {})
      assert.equal(ok, true)
      assert.equal(started.length, 1)
    })
  })
})

describe('stop', () => {
  const isStopped = (error: unknown) =>
    error instanceof RenderPoolError && error.code === 'render_pool_stopped'

  test('rejects what is in flight and what comes after, and can be called twice', async () => {
    const pool = createRenderPool()
    const inFlight = assert.rejects(pool.render([stuck('a')]), isStopped)
    const waiting = assert.rejects(pool.render([good('b')]), isStopped)
    await Promise.all([pool.stop(), pool.stop(), inFlight, waiting])
    await assert.rejects(pool.render([good('c')]), isStopped)
    await assert.rejects(pool.check({ key: 'd', subject: null, html: null, text: null }), isStopped)
  })
})
