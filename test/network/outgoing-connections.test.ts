import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

/** What opens a connection to somewhere else. */
const OPENS =
  /\bfetch\(|\bhttps?Request\(|\btlsRequest\(|\brequest\(url|\bnew (?:Socket|WebSocket|EventSource)\(|\b(?:tls|net)\.connect\(|\bcreateConnection\(|from '(?:undici|axios|got|node-fetch)'|\bimport\('node:(?:https?|net|tls)'\)/
const CAN_OPEN = /^import (?!type )[^;]*? from 'node:(?:https?|http2|net|tls|dgram|dns)'/m

/** Each place that speaks to the network, and why what it speaks to is not a stranger's choice. */
const ALLOWED: Readonly<Record<string, string>> = {
  'src/network/guarded-fetch.ts': 'the guard itself',
  'src/network/public-addresses.ts': 'tells addresses apart',
  'src/webhook-target.ts': 'tells an address from a name',
  'src/http/inbox-guard.ts': 'tells addresses apart',
  'src/http/server.ts': 'listens',
  'src/inbox/sink.ts': 'listens',
  'src/db/embedded-postmaster.ts': 'finds a free port of this machine',
  'src/log-output.ts': 'has a descriptor opened for it: its own standard output',
  'src/dispatch/http/client.ts': 'providers, which an operator named',
  'src/dispatch/http/api-check.ts': 'providers, which an operator named',
  'src/dispatch/smtp-session.ts': 'relays, which an operator named',
}
/** Go to the guard under another name. */
const THROUGH_THE_GUARD: Readonly<Record<string, RegExp>> = {
  'src/feedback/verify/sns-certificates.ts': /fetch: PinnedFetch/,
  'src/feedback/verify/sns.ts': /fetch: PinnedFetch/,
  'src/feedback/pinned-fetch.ts': /guardedFetch\(url/,
  'src/processing/fetching-lane.ts': /fetcher\.fetch\(path/,
  'src/processing/attachment-fetcher.ts': /guardedFetch\(path/,
  'src/webhooks/request.ts': /guardedFetch\(url/,
  'src/alerts/request.ts': /guardedFetch\(url/,
  'src/webhooks/deliverer.ts': /boss\.fetch\(/,
}

test('nothing but the guard makes a request to an address that somebody else chose', () => {
  const speaking = globSync(['src/**/*.ts', 'src/main.js']).filter((file) => {
    const source = readFileSync(file, 'utf8').replace(/^\s*(?:\/\/|\*|\/\*).*$/gm, '')
    return CAN_OPEN.test(source) || OPENS.test(source)
  })
  const unexplained = speaking.filter((file) => {
    const guard = THROUGH_THE_GUARD[file]
    return !(file in ALLOWED) && guard?.test(readFileSync(file, 'utf8')) !== true
  })
  assert.deepEqual(unexplained, [], 'these speak to the network, and nothing here says why they may')
})
