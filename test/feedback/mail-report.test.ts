import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { parseMailReport } from '../../src/feedback/parse/mail-report.ts'
import type { Report } from '../../src/feedback/parse/report.ts'
import { BOUNCE_ADDRESSES } from './feedback-stage.ts'

const ID = '0197a2b4-7c1e-7d3a-9f00-1234567890ab'
const RECEIVED = new Date('2027-01-15T12:00:05.000Z')
/** In every report of ours: when it was written. */
const WRITTEN = '2027-01-15T11:59:58.000Z'
const BY_HEADER = { sluiceId: ID, messageId: `<${ID}@example.com>` }
const BY_ADDRESS = { sluiceId: ID }

function read(name: string): string {
  return readFileSync(new URL(`reports/${name}.eml`, import.meta.url), 'utf8')
}

function parse(body: string | Uint8Array, requiresBounceAddress = false): Promise<Report> {
  const raw = { endpoint: 'dsn', eventKey: 'delivery-1', receivedAt: RECEIVED, provider: 'main' }
  return parseMailReport(
    { ...raw, body: Buffer.from(body) },
    { addresses: BOUNCE_ADDRESSES, requiresBounceAddress },
  )
}

type Expected = {
  readonly type?: string
  readonly recipient?: string | undefined
  readonly match?: object
  readonly at?: string
  readonly bounce?: readonly [string, string | undefined]
}

/** What each report says; the rest of it, where one is expected, is ignored. */
const REPORTS: Readonly<Record<string, { events: readonly Expected[]; ignored?: readonly string[] }>> = {
  'postfix-unknown-user': { events: [{ match: BY_ADDRESS }] },
  'postfix-delayed': {
    events: [{ type: 'deferred', bounce: ['soft', '4.4.1'], at: '2027-01-15T11:59:30.000Z' }],
  },
  'postfix-expired': { events: [{ bounce: ['soft', '4.4.1'] }] },
  'postfix-several': {
    events: [
      { type: 'delivered', bounce: ['', undefined] },
      { recipient: 'bob@example.org', bounce: ['soft', '5.2.2'] },
    ],
    ignored: ['a recipient that was expanded', 'a recipient that was relayed'],
  },
  'exim-report': { events: [{}] },
  'exim-text': {
    events: [
      { match: BY_ADDRESS },
      { match: BY_ADDRESS, recipient: 'bob@example.org', bounce: ['undetermined', undefined] },
    ],
  },
  sendmail: { events: [{ at: '2027-01-15T11:59:57.000Z' }] },
  exchange: { events: [{ bounce: ['hard', '5.1.10'] }] },
  'exchange-text': { events: [{ match: BY_ADDRESS }] },
  gmail: { events: [{ match: BY_ADDRESS, recipient: 'ann@gmail.example', at: '2027-01-15T11:59:57.000Z' }] },
  'gmail-policy': { events: [{ recipient: 'ann@gmail.example', bounce: ['undetermined', '5.7.26'] }] },
  qmail: {
    events: [
      { match: BY_ADDRESS },
      { match: BY_ADDRESS, recipient: 'bob@example.org', bounce: ['soft', '4.4.1'] },
    ],
  },
  'amazon-ses': { events: [{}] },
  'arf-abuse': { events: [{ type: 'complained', bounce: ['', undefined], at: '2027-01-15T11:59:42.000Z' }] },
  'arf-redacted': {
    events: [
      {
        type: 'complained',
        recipient: undefined,
        match: BY_ADDRESS,
        bounce: ['', undefined],
        at: '2027-01-15T11:59:42.000Z',
      },
    ],
  },
  'arf-not-spam': { events: [], ignored: ['an abuse report of type not-spam'] },
  receipt: { events: [], ignored: ['a receipt (RFC 8098)'] },
  vacation: { events: [], ignored: ['an automatic reply'] },
}

describe('what a report says', () => {
  for (const [name, { events, ignored = [] }] of Object.entries(REPORTS)) {
    test(name, async () => {
      const lf = await parse(read(name))
      const crlf = await parse(read(name).replaceAll('\n', '\r\n'))
      for (const report of [lf, crlf]) {
        assert.deepEqual(
          report.events.map(({ type, recipient, match, at, bounce, provider }) => ({
            ...{ type, recipient, match, provider },
            at: at.toISOString(),
            bounce: [bounce?.kind ?? '', bounce?.code],
          })),
          events.map((expected) => ({
            type: 'bounced',
            recipient: 'ann@example.net',
            match: BY_HEADER,
            provider: 'main',
            at: WRITTEN,
            bounce: ['hard', '5.1.1'],
            ...expected,
          })),
        )
        assert.deepEqual([report.ignored, report.faults], [ignored, []])
      }
      assert.deepEqual(
        lf.events.map(({ key }) => key),
        crlf.events.map(({ key }) => key),
      )
    })
  }

  test('the words of the remote server are kept, without what is around them', async () => {
    const { events } = await parse(read('postfix-unknown-user'))
    assert.equal(
      events[0]?.bounce?.reason,
      '550 5.1.1 <ann@example.net>: Recipient address rejected: User unknown',
    )
    assert.deepEqual(events[0]?.detail, { remote_mta: 'mx.example.net' })
  })
})

describe('what is no report', () => {
  test('a mail that only speaks of one is parked, and so is one without sense', async () => {
    for (const [body, fault] of [
      [read('human-reply'), 'neither a bounce nor a complaint'],
      ['', 'neither a bounce nor a complaint'],
      ['Hi. This is the qmail-send program at x.', 'neither a bounce nor a complaint'],
      [
        'Content-Type: message/delivery-status\n\nReporting-MTA: dns; x\n',
        'a delivery status without recipients',
      ],
      [
        'Content-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nFinal-Recipient: rfc822; a@b.example\nAction: exploded\n',
        'a recipient without one of the actions of RFC 3464',
      ],
      [
        'Content-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nFinal-Recipient: rfc822; a@b.example\nAction: failed\n',
        'a report that does not show which message it is about',
      ],
      ['Content-Type: message/feedback-report\n\nVersion: 1\n', 'an abuse report without Feedback-Type'],
    ] as const) {
      assert.deepEqual(await parse(body), { events: [], ignored: [], faults: [fault] }, fault)
    }
  })
})

describe('which message it is about', () => {
  test('a bounce address that we never made takes every word from a report', async () => {
    const forged = { events: [], ignored: [], faults: ['sent to a bounce address that is none of ours'] }
    assert.deepEqual(await parse(read('forged')), forged)
    const [, tag = ''] = /-([0-9a-f]{16})@/.exec(read('postfix-unknown-user')) ?? []
    for (let digit = 0; digit < tag.length; digit += 1) {
      const other = `${tag.slice(0, digit)}${tag[digit] === '0' ? '1' : '0'}${tag.slice(digit + 1)}`
      assert.deepEqual(await parse(read('postfix-unknown-user').replaceAll(tag, other)), forged)
    }
  })

  test('the address is stronger than what the report brings back, in any case of its letters', async () => {
    const other = '0197a2b4-7c1e-7d3a-9f00-ffffffffffff'
    const { events } = await parse(
      read('postfix-unknown-user')
        .replaceAll(`X-Sluice-Id: ${ID}`, `X-Sluice-Id: ${other}`)
        .replaceAll('bounce+', 'BOUNCE+')
        .replaceAll('bc744cdd', 'BC744CDD'),
    )
    assert.deepEqual(events[0]?.match, BY_ADDRESS)
  })

  test('where the source asks for it, nothing else is believed', async () => {
    const strict = async (name: string) => {
      const { events, faults } = await parse(read(name), true)
      return events.length > 0 || faults[0]
    }
    assert.equal(await strict('postfix-unknown-user'), true)
    // A complaint comes to another address, and brings back the one it was sent from.
    assert.equal(await strict('arf-redacted'), true)
    assert.equal(await strict('sendmail'), 'not sent to the bounce address of a message')
    assert.equal(await strict('arf-abuse'), 'not sent to the bounce address of a message')
  })

  test('an envelope id will do, when nothing of the mail comes back', async () => {
    const { events } = await parse(
      `Message-ID: <1@x>\nContent-Type: message/delivery-status\n\nOriginal-Envelope-Id: ${ID}\n\n` +
        'Final-Recipient: rfc822; ann@example.net\nAction: failed\nStatus: 5.1.1\n',
    )
    assert.deepEqual(events[0]?.match, BY_ADDRESS)
  })
})

test('a report handed over twice, with other traces, is the same events', async () => {
  const again = `Received: from other\n${read('postfix-several')}`
  const keys = async (body: string) => (await parse(body)).events.map(({ key }) => key)
  assert.deepEqual(await keys(again), await keys(read('postfix-several')))
  assert.equal(new Set(await keys(again)).size, 2)
})

describe('whatever the bytes', () => {
  const mails = Object.keys(REPORTS).map(read)

  test('random ones, and mails cut off or altered anywhere, are read or parked', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 2_000 }), async (bytes) => {
        assert.deepEqual((await parse(bytes)).events, [])
      }),
    )
    const cut = fc
      .tuple(fc.constantFrom(...mails), fc.nat(), fc.uint8Array({ maxLength: 40 }))
      .map(([mail, at, noise]) => {
        const bytes = Buffer.from(mail)
        return { kept: bytes.subarray(0, at % bytes.length), noise, rest: bytes.subarray(at % bytes.length) }
      })
    await fc.assert(
      fc.asyncProperty(cut, fc.boolean(), async ({ kept, noise, rest }, isWhole) => {
        const { events, faults, ignored } = await parse(
          Buffer.concat([kept, noise, ...(isWhole ? [rest] : [])]),
        )
        assert.ok(events.length + faults.length + ignored.length > 0)
      }),
      { numRuns: 300 },
    )
  })

  test('any fields and any text in them', async () => {
    const word = fc.oneof(
      fc.constantFrom(
        'rfc822;',
        'ann@example.net',
        '5.1.1',
        'failed',
        ';',
        '<',
        '>',
        '=?utf-8?q?=ff?=',
        '\0',
      ),
      fc.string({ unit: 'binary', maxLength: 20 }),
    )
    const line = fc
      .tuple(
        fc.constantFrom(
          'Final-Recipient',
          'Original-Recipient',
          'Action',
          'Status',
          'Diagnostic-Code',
          'X',
          '',
        ),
        word,
        word,
      )
      .map(([name, a, b]) => `${name}: ${a} ${b}`)
    await fc.assert(
      fc.asyncProperty(fc.array(line, { maxLength: 30 }), async (lines) => {
        const { events } = await parse(
          `X-Sluice-Id: ${ID}\nContent-Type: message/delivery-status\n\n${lines.join('\n')}`,
        )
        for (const { type, recipient, match } of events) {
          assert.deepEqual([type, match.sluiceId], ['bounced', ID])
          assert.match(recipient ?? 'unsaid@', /^[^@\s]+@/)
        }
      }),
    )
  })

  test('nesting without end, headers without end, and parts without number', async () => {
    const nested = Array.from(
      { length: 1_000 },
      (_, n) => `Content-Type: multipart/mixed; boundary="b${n}"\n\n--b${n}\n`,
    ).join('')
    assert.deepEqual((await parse(nested)).faults, ['not a mail that can be read'])
    const attached = 'Content-Type: message/rfc822\n\n'.repeat(1_000)
    assert.deepEqual((await parse(attached)).faults, ['neither a bounce nor a complaint'])
    const huge = `X-Sluice-Id: ${'a'.repeat(3_000_000)}\n\n`
    assert.deepEqual((await parse(huge)).faults, ['not a mail that can be read'])
    const groups = `\nFinal-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.1.1\n`.repeat(2_000)
    const many = await parse(
      `Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n${groups}\n--b\nContent-Type: text/rfc822-headers\n\nX-Sluice-Id: ${ID}\n--b--`,
    )
    assert.equal(many.events.length, 500)
    // Each of these takes a time that is out of all proportion when some pattern backtracks.
    for (const run of [
      ' ',
      '\n',
      '\t',
      '\r\n \r\n',
      'a:',
      'bounce+',
      '> ',
      '<',
      '5.',
      'a@',
      '\n<a@b.c>:\n',
    ]) {
      const body = `Hi. This is the\n\n<a@b.example>:\n${run.repeat(200_000 / run.length)}`
      assert.ok(await parse(body), JSON.stringify(run))
      assert.ok(
        await parse(`X-Failed-Recipients: ${run.trim().repeat(60_000)}\nTo: ${run.trim()}\n\n${body}`),
      )
    }
  })
})
