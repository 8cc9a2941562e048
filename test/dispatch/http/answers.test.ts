import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { MACHINE_CLOCK } from '../../../src/database-clock.ts'
import { type MailApi, outcomeOf, type Piece } from '../../../src/dispatch/http/mail-api.ts'
import { mailgunApi } from '../../../src/dispatch/http/mailgun.ts'
import { postmarkApi } from '../../../src/dispatch/http/postmark.ts'
import { resendApi } from '../../../src/dispatch/http/resend.ts'
import { sendGridApi } from '../../../src/dispatch/http/sendgrid.ts'
import { sesApi } from '../../../src/dispatch/http/ses.ts'
import { MailContent } from '../../../src/dispatch/mime/mail-content.ts'
import { MAIL } from './outgoing-mail.ts'

const ses = {
  baseUrl: new URL('https://x.test'),
  region: 'eu-west-1',
  accessKeyId: 'A',
  secretAccessKey: 'key',
  clock: MACHINE_CLOCK,
}
/** The API, and the one status it accepts a mail with. */
const APIS: readonly (readonly [string, MailApi, number])[] = [
  ['ses', sesApi(ses), 200],
  ['sendgrid', sendGridApi({ apiKey: 'key' }), 202],
  ['mailgun', mailgunApi({ apiKey: 'key', domain: 'mg.test' }), 200],
  ['postmark', postmarkApi({ serverToken: 'key' }), 200],
  ['resend', resendApi({ apiKey: 'key' }), 200],
]
const PIECE: Piece = {
  mail: MAIL,
  content: new MailContent([]),
  addressing: { to: MAIL.to, cc: MAIL.cc, bcc: [] },
  key: MAIL.id,
}

const names = [
  'id',
  'MessageId',
  'message',
  'name',
  'ErrorCode',
  'Message',
  'MessageID',
  'errors',
  'data',
  'index',
]
const leaf = fc.oneof(fc.string({ unit: 'binary' }), fc.integer(), fc.boolean(), fc.constant(null))
const tree = fc.letrec((tie) => ({
  node: fc.oneof(
    leaf,
    fc.array(tie('node'), { maxLength: 4 }),
    fc.dictionary(fc.constantFrom(...names), tie('node')),
  ),
})).node
const body = fc.oneof(
  fc.constant(undefined),
  fc.string({ unit: 'binary' }),
  tree.map((json) => JSON.stringify(json)),
)
const status = fc.oneof(
  fc.constantFrom(200, 202, 400, 401, 403, 422, 429, 500, 504),
  fc.integer({ min: 0, max: 999 }),
)

for (const [name, api, accepting] of APIS) {
  test(`${name}: any answer at all is an outcome, and only the documented one is "accepted"`, () => {
    fc.assert(
      fc.property(status, body, fc.option(fc.string(), { nil: undefined }), (code, text, header) => {
        const headers = header === undefined ? {} : { 'x-amzn-errortype': header, 'x-message-id': header }
        const outcome = outcomeOf(api, api.readAnswer({ status: code, headers, body: text }, PIECE))
        if (outcome.kind === 'accepted') assert.equal(code, accepting)
        if (code >= 200 && code < 300) assert.notEqual(outcome.kind, 'refused')
        // Only a provider that can be recognised condemns a message; 413 comes from whatever stands before it.
        if (outcome.kind === 'refused' && code !== 413) assert.ok(text !== undefined || header !== undefined)
        for (const said of Object.values(outcome)) {
          if (typeof said !== 'string') continue
          assert.ok(said.length <= 504 && !/\p{Cc}/u.test(said) && said.isWellFormed(), JSON.stringify(said))
        }
      }),
      { numRuns: 500 },
    )
  })
}

for (const [name, api] of APIS.filter(([, { batch }]) => batch !== undefined)) {
  test(`${name}: any answer to a batch has an entry for every message, or one for all`, () => {
    fc.assert(
      fc.property(status, body, fc.integer({ min: 2, max: 5 }), (code, text, count) => {
        const pieces = Array.from({ length: count }, () => PIECE)
        const read = api.batch?.readAnswer({ status: code, headers: {}, body: text }, pieces)
        if (read?.kind === 'each') assert.equal(read.entries.length, count)
        if (read?.kind === 'whole') assert.notEqual(outcomeOf(api, read.fault).kind, 'accepted')
      }),
      { numRuns: 500 },
    )
  })
}
