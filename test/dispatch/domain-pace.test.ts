/** The arithmetic of limited domains, with a clock that the test turns. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { DomainLimit } from '../../src/catalog.ts'
import { limitsFor } from '../../src/dispatch/domain-limits.ts'
import { decideTurns, limitText, type Pace } from '../../src/dispatch/domain-pace.ts'
import { mostInWindow } from '../support/windows.ts'

const LIMIT: DomainLimit = {
  ...{ id: 1, domain: 'gmail.com', provider: null, quota: 20, windowMs: 1_000, utilization: 0.85, burst: 5 },
}
const URGENT = { isUrgent: true }
const OTHERS = { isUrgent: false }

function paceOf(limit: DomainLimit, domain = limit.domain): Pace {
  return { limit, domain, spentUntil: 0, plannedUntil: 0, plannedUrgentUntil: 0, lateUntil: 0 }
}

type Mail = { readonly paces: readonly Pace[]; comesAt: number; hasTurn: boolean; putBack: number }

function mailsTo(paces: readonly Pace[], count: number, comesAt = 0): Mail[] {
  return Array.from({ length: count }, () => ({ paces, comesAt, hasTurn: false, putBack: 0 }))
}

/** Looks at what is due, at most so many at once, at these moments; returns when each was sent. */
function simulate(mails: readonly Mail[], looks: Iterable<number>, atOnce = 20): number[] {
  const waiting = [...mails]
  const sent: number[] = []
  for (const now of looks) {
    if (waiting.length === 0) return sent
    const due = waiting.filter((mail) => mail.comesAt <= now).slice(0, atOnce)
    const verdicts = decideTurns(due, { now, ...OTHERS })
    for (const [index, mail] of due.entries()) {
      const verdict = verdicts[index]
      if (verdict === undefined) {
        waiting.splice(waiting.indexOf(mail), 1)
        sent.push(now)
      } else {
        assert.ok(verdict.comesAt > now, 'it comes back in the future')
        Object.assign(mail, { comesAt: verdict.comesAt, hasTurn: true, putBack: mail.putBack + 1 })
      }
    }
  }
  assert.fail(`${waiting.length} were never sent`)
}

function* every(ms: number, from = 0, until = 3_600_000): Generator<number> {
  for (let at = from; at <= until; at += ms) yield at
}

test('a flood goes at the pace that is planned, each of it put back once at most', () => {
  const mails = mailsTo([paceOf(LIMIT)], 500)
  const sent = simulate(mails, every(10))
  assert.equal(mostInWindow(sent.slice(0, 5), 1), 5, 'the burst goes at once')
  assert.ok(Math.max(...mails.map(({ putBack }) => putBack)) <= 1)
  const seconds = (Math.max(...sent) - Math.min(...sent)) / 1_000
  assert.ok(Math.abs(495 / seconds - 17) < 0.5, `${495 / seconds} a second`)
})

test('however late those who look are, a window sees at most quota and burst, and each mail goes', () => {
  const anyLimit = fc.record({
    quota: fc.integer({ min: 1, max: 200 }),
    windowMs: fc.constantFrom(1_000, 10_000, 60_000),
    utilization: fc.double({ min: 0.3, max: 1, noNaN: true }),
    burst: fc.double({ min: 1, max: 50, noNaN: true }),
  })
  const anyPauses = fc.array(
    fc.oneof(
      { weight: 9, arbitrary: fc.integer({ min: 1, max: 400 }) },
      { weight: 1, arbitrary: fc.integer({ min: 400, max: 30_000 }) },
    ),
    { minLength: 5, maxLength: 30 },
  )
  fc.assert(
    fc.property(anyLimit, anyPauses, fc.integer({ min: 1, max: 300 }), (settings, pauses, count) => {
      const limit = { ...LIMIT, ...settings }
      const looks = function* () {
        let at = 0
        for (let index = 0; at < 100_000_000; index += 1) {
          yield at
          at += pauses[index % pauses.length] ?? 1
        }
      }
      const sent = simulate(mailsTo([paceOf(limit)], count), looks())
      assert.equal(sent.length, count)
      // The last of a burst may share its millisecond with the first of the next spacing.
      const most = mostInWindow(sent, limit.windowMs)
      assert.ok(most <= limit.quota + Math.floor(limit.burst) + 1, `${most} in ${JSON.stringify(limit)}`)
    }),
    { numRuns: 300 },
  )
})

test('after a pause that outlasts their turns, mail takes new ones instead of coming all at once', () => {
  const mails = mailsTo([paceOf(LIMIT)], 400)
  const looks = function* () {
    yield* every(10, 0, 1_000)
    yield* every(100, 600_000)
  }
  const sent = simulate(mails, looks())
  assert.ok(mostInWindow(sent, 1_000) <= 25)
  const most = Math.max(...mails.map(({ putBack }) => putBack))
  assert.ok(most <= 4, `one was put back ${most} times`)
})

test('a worker that is slower than the limit puts nothing back twice', () => {
  const mails = mailsTo([paceOf(LIMIT)], 300)
  // Four at a time, every half second: 8 of the 17 a second that are planned.
  simulate(mails, every(500), 4)
  const putBack = mails.reduce((sum, mail) => sum + mail.putBack, 0)
  assert.ok(putBack <= 300 * 1.1, `${putBack} times put back`)
})

test('urgent mail does not wait behind the others, and may spend the burst once more', () => {
  const pace = paceOf(LIMIT)
  const flood = mailsTo([pace], 1_000)
  decideTurns(flood, { now: 0, ...OTHERS })
  const urgent = decideTurns(mailsTo([pace], 8), { now: 0, ...URGENT })
  assert.deepEqual(
    urgent.map((verdict) => verdict === undefined),
    [true, true, true, true, true, false, false, false],
  )
  const waits = urgent.slice(5).map((verdict) => verdict?.comesAt ?? 0)
  assert.ok(Math.max(...waits) < 500, `urgent mail comes back within half a second: ${waits}`)
  const next = decideTurns(mailsTo([pace], 1), { now: 0, ...OTHERS })
  assert.ok((next[0]?.comesAt ?? 0) > 58_000, 'the others queue behind the flood')
})

test('mail to several domains waits for the latest, and counts for each', () => {
  const slow = paceOf({ ...LIMIT, id: 2, domain: 'slow.example', quota: 1, windowMs: 60_000, burst: 1 })
  const quick = paceOf(LIMIT)
  const [first, second] = decideTurns(mailsTo([quick, slow], 2), { now: 0, ...OTHERS })
  assert.equal(first, undefined)
  assert.equal(second?.pace, slow)
  assert.ok((second?.comesAt ?? 0) > 60_000)
  const others = decideTurns(mailsTo([quick], 5), { now: 0, ...OTHERS })
  assert.equal(
    others.filter((verdict) => verdict === undefined).length,
    3,
    'both counted for the quick domain',
  )
})

test('a domain has its own limit or that of all domains, of this provider and of all', () => {
  const limits = [
    { ...LIMIT, id: 1, domain: '*' },
    { ...LIMIT, id: 2, domain: 'gmail.com' },
    { ...LIMIT, id: 3, domain: '*', provider: 'ses' },
  ]
  const idsFor = (provider: string, domain: string) => limitsFor(limits, provider, domain).map(({ id }) => id)
  assert.deepEqual(idsFor('ses', 'gmail.com'), [3, 2])
  assert.deepEqual(idsFor('ses', 'gmx.de'), [3, 1])
  assert.deepEqual(idsFor('relay', 'gmail.com'), [2])
  assert.deepEqual(limitsFor(limits.slice(1), 'relay', 'gmx.de'), [])
})

test('a limit is told in words', () => {
  const text = (changes: Partial<DomainLimit>) => limitText(paceOf({ ...LIMIT, ...changes }))
  assert.equal(text({}), 'mail to gmail.com is limited to 20 a second')
  assert.equal(
    text({ windowMs: 3_600_000, provider: 'ses' }),
    'mail to gmail.com through ses is limited to 20 an hour',
  )
  assert.equal(text({ windowMs: 1_500 }), 'mail to gmail.com is limited to 20 in 1.5 s')
})
