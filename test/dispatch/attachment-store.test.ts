import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { AttachmentStore, type ContentSlice, type Held } from '../../src/dispatch/attachment-store.ts'
import { ByteBudget } from '../../src/dispatch/byte-budget.ts'
import { requestsOf } from '../../src/dispatch/requests.ts'

const MB = 1_024 * 1_024
const NEVER = new AbortController().signal

/** Contents by name, and every read of them. */
function shelf(contents: Readonly<Record<string, Buffer>>) {
  const reads: (readonly ContentSlice[])[] = []
  const read = async (slices: readonly ContentSlice[]) => {
    reads.push(slices)
    return slices.map(({ sha256, start, length }) => contents[sha256]?.subarray(start, start + length))
  }
  const wanted = (...names: readonly string[]) =>
    names.map((sha256) => ({ sha256, size: contents[sha256]?.length ?? 1 }))
  return { read, reads, wanted }
}

async function hold(
  store: AttachmentStore,
  wanted: Parameters<AttachmentStore['hold']>[1],
  owner = 'a',
): Promise<Held> {
  const held = await store.hold(owner, wanted, NEVER)
  assert.ok('contents' in held, JSON.stringify(held))
  return held
}

test('what is asked for at the same moment is read with one statement, and each content once', async () => {
  const { read, reads, wanted } = shelf({ a: randomBytes(10), b: randomBytes(20), none: Buffer.alloc(0) })
  const store = new AttachmentStore(read)
  const held = await Promise.all([
    hold(store, wanted('a')),
    hold(store, wanted('a', 'b'), 'other'),
    hold(store, wanted('b', 'none')),
  ])
  assert.equal(reads.length, 1)
  assert.deepEqual(reads[0]?.map(({ sha256 }) => sha256).toSorted(), ['a', 'b', 'none'])
  assert.deepEqual([...(held[2]?.contents.keys() ?? [])], ['b', 'none'])
  await hold(store, wanted('a'))
  assert.equal(reads.length, 1, 'kept')
})

test('a large content is read in slices, and comes out as it is', async () => {
  const big = randomBytes(9 * MB + 5)
  const { read, reads, wanted } = shelf({ big, small: randomBytes(100) })
  const held = await hold(new AttachmentStore(read), wanted('big', 'small'))
  assert.ok(held.contents.get('big')?.equals(big))
  assert.equal(held.contents.get('small')?.length, 100)
  assert.equal(reads.length, 3)
})

test('contents used longest ago make room for others', async () => {
  const { read, reads, wanted } = shelf({ a: randomBytes(40), b: randomBytes(40), c: randomBytes(40) })
  const store = new AttachmentStore(read, { maxKeptBytes: 100 })
  for (const name of ['a', 'b', 'a', 'c', 'a']) (await hold(store, wanted(name))).release()
  assert.equal(reads.length, 3)
  await hold(store, wanted('b'))
  assert.equal(reads.length, 4)
})

test('what was not used for a minute or two is kept no longer', async (t) => {
  const { read, reads, wanted } = shelf({ a: randomBytes(10), b: randomBytes(10) })
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let now = 0
  t.mock.method(performance, 'now', () => now)
  const store = new AttachmentStore(read)
  await hold(store, wanted('a', 'b'))
  now = 50_000
  await hold(store, wanted('b'))
  assert.equal(reads.length, 1, 'kept')
  now = 60_000
  t.mock.timers.tick(60_000)
  await hold(store, wanted('b'))
  assert.equal(reads.length, 1, 'used ten seconds ago')
  await hold(store, wanted('a'))
  assert.equal(reads.length, 2, 'a minute ago')
  now = 180_000
  t.mock.timers.tick(120_000)
  await hold(store, wanted('a', 'b'))
  assert.equal(reads.length, 3, 'nothing had been used since')
})

test('a content that is gone, or not as long as the message says, is not there', async () => {
  const { read } = shelf({ short: randomBytes(5) })
  const store = new AttachmentStore(read)
  const held = await hold(store, [
    { sha256: 'gone', size: 3 },
    { sha256: 'short', size: 6 },
  ])
  assert.equal(held.contents.size, 0)
})

test('a database that does not answer costs the message nothing, and the next send asks again', async () => {
  const { read, wanted } = shelf({ a: randomBytes(10) })
  let isAway = true
  const store = new AttachmentStore(
    (slices) => (isAway ? Promise.reject(new Error('connection refused')) : read(slices)),
    { maxInFlightBytes: 10 },
  )
  const outcome = await store.hold('a', wanted('a'), NEVER)
  assert.ok('kind' in outcome && outcome.kind === 'unreachable' && outcome.code === 'attachments_not_loaded')
  isAway = false
  assert.equal((await hold(store, wanted('a'))).contents.size, 1)
})

/** Whether it was granted at once. */
async function tryTake(budget: ByteBudget, owner: string, bytes: number) {
  const taking = budget.take(owner, bytes, NEVER)
  let release: (() => void) | undefined
  void taking.then((given) => {
    release = given
  })
  await new Promise(setImmediate)
  return { isGranted: () => release !== undefined, release: () => release?.(), taking }
}

test('one owner gets half of the budget, and leaves room for the others', async () => {
  const budget = new ByteBudget(100)
  const first = await Promise.all([1, 2, 3, 4].map(() => tryTake(budget, 'a', 20)))
  assert.deepEqual(
    first.map((each) => each.isGranted()),
    [true, true, true, false],
  )
  const other = await tryTake(budget, 'b', 10)
  assert.ok(other.isGranted())
  first[0]?.release()
  other.release()
  await first[3]?.taking
})

test('what is larger than the budget goes, one such at a time', async () => {
  const budget = new ByteBudget(100)
  const small = await tryTake(budget, 'a', 60)
  const large = await tryTake(budget, 'b', 500)
  assert.ok(large.isGranted())
  const next = await tryTake(budget, 'c', 500)
  const behind = await tryTake(budget, 'a', 1)
  assert.ok(!next.isGranted() && !behind.isGranted())
  large.release()
  large.release()
  await next.taking
  small.release()
  next.release()
  await behind.taking
})

test('who stops waiting holds nothing and holds up nobody', async () => {
  const budget = new ByteBudget(100)
  const first = await tryTake(budget, 'a', 100)
  const stop = new AbortController()
  const waiting = budget.take('a', 90, stop.signal)
  const behind = await tryTake(budget, 'a', 10)
  assert.ok(!behind.isGranted())
  stop.abort()
  assert.equal(await waiting, undefined)
  assert.equal(await budget.take('b', 1, stop.signal), undefined)
  first.release()
  await behind.taking
})

test('whatever is taken and given back, everybody is served in the end and no more than one goes over', async () => {
  const takes = fc.array(fc.record({ owner: fc.constantFrom('a', 'b', 'c'), bytes: fc.nat(150) }), {
    maxLength: 30,
  })
  await fc.assert(
    fc.asyncProperty(takes, async (list) => {
      const budget = new ByteBudget(100)
      let inFlight = 0
      let served = 0
      await Promise.all(
        list.map(async ({ owner, bytes }) => {
          const release = await budget.take(owner, bytes, NEVER)
          inFlight += bytes
          assert.ok(inFlight <= 100 + 150, `${inFlight} bytes in flight`)
          await new Promise(setImmediate)
          inFlight -= bytes
          served += 1
          release?.()
        }),
      )
      assert.equal(served, list.length)
    }),
    { numRuns: 50 },
  )
})

test('mail with attachments shares a request where a batch may have them and as long as it is small', () => {
  const batch = (takesAttachments: boolean) => ({ size: 500, takesAttachments, send: async () => [] })
  const bytes = (item: number) => (item === 0 ? undefined : item * MB)
  const items = [0, 5, 0, 5, 1, 0, 20, 0]
  assert.deepEqual(requestsOf(batch(true), items, bytes), [
    [0, 5, 0],
    [5, 1, 0],
    [20, 0],
  ])
  assert.deepEqual(requestsOf(batch(false), items, bytes), [[0, 0, 0, 0], [5], [5], [1], [20]])
  assert.deepEqual(requestsOf(batch(false), [0, 0], bytes), [[0, 0]])
})
