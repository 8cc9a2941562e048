import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { Fetched, PinnedFetch } from '../../src/feedback/pinned-fetch.ts'
import type { Verdict } from '../../src/feedback/verify/proof.ts'
import { confirmSubscription, verifySns } from '../../src/feedback/verify/sns.ts'
import { SnsCertificates } from '../../src/feedback/verify/sns-certificates.ts'
import { deliveryOf } from './proofs.ts'
import {
  CA_CERTIFICATE,
  CERTIFICATE_URL,
  REGIONAL_CERTIFICATE,
  SIGNER_CERTIFICATE,
  SNS_NOW,
  type SnsMessage,
  STRANGER_CERTIFICATE,
  snsMessage,
  TOPIC,
} from './sns-signer.ts'

const MINUTE = 60_000

/** A verifier whose requests are answered with this, and the addresses that were asked. */
function verifier(answer: Fetched = { kind: 'answered', status: 200, body: SIGNER_CERTIFICATE }) {
  const asked: string[] = []
  const fetch: PinnedFetch = async (url) => {
    asked.push(url)
    return answer
  }
  const certificates = new SnsCertificates(fetch)
  return {
    asked,
    judge: async (message: SnsMessage | string, nowMs = SNS_NOW, topics = [TOPIC]) => {
      const body = Buffer.from(typeof message === 'string' ? message : JSON.stringify(message))
      return verifySns({ certificates }, deliveryOf({ headers: {}, body }), topics, nowMs)
    },
  }
}

function word(verdict: Verdict): string {
  return 'reason' in verdict ? verdict.reason : verdict.kind
}

test('a signed notification of a listed topic is proved, with its MessageId for a key', async () => {
  const { judge, asked } = verifier()
  assert.deepEqual(await judge(snsMessage()), {
    kind: 'proved',
    eventKey: '22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324',
  })
  assert.equal((await judge(snsMessage({ Subject: 'Amazon SES' }))).kind, 'proved')
  assert.equal((await judge(snsMessage({ Subject: null }))).kind, 'proved')
  assert.deepEqual(asked, [CERTIFICATE_URL], 'a certificate is fetched once')
})

test('any other topic is refused before anything is fetched, though Amazon signed it', async () => {
  const { judge, asked } = verifier()
  for (const topic of [
    `${TOPIC}2`,
    TOPIC.replace('1234', '4321'),
    TOPIC.replace('eu-west-1', 'us-east-1'),
    '',
  ]) {
    assert.equal(word(await judge(snsMessage({ TopicArn: topic }))), 'topic_not_listed')
  }
  assert.deepEqual(asked, [])
})

test('every signed field that is altered is noticed', async () => {
  const { judge } = verifier()
  const message = snsMessage({ Subject: 'Amazon SES' })
  for (const name of ['Message', 'MessageId', 'Subject', 'Timestamp', 'Type', 'Signature']) {
    const value = message[name] ?? ''
    const altered =
      name === 'Type'
        ? 'UnsubscribeConfirmation'
        : name === 'Timestamp'
          ? new Date(SNS_NOW - 2_000).toISOString()
          : value.replace(/[a-z]/, (letter) => String.fromCharCode(letter.charCodeAt(0) ^ 1))
    assert.equal(word(await judge({ ...message, [name]: altered })), 'signature_wrong', name)
  }
  const { Subject: _subject, ...without } = message
  assert.equal(word(await judge(without)), 'signature_wrong')
})

test('signature version 1, and any but 2, is refused', async () => {
  for (const version of ['1', '3', '', '02']) {
    assert.equal(
      word(await verifier().judge(snsMessage({ SignatureVersion: version }))),
      'signature_version_refused',
    )
  }
})

test('a message is believed for little more than the hour in which SNS repeats it', async () => {
  const { judge } = verifier()
  const at = (ms: number) => snsMessage({ Timestamp: new Date(ms).toISOString() })
  assert.equal(word(await judge(at(SNS_NOW - 64 * MINUTE))), 'proved')
  assert.equal(word(await judge(at(SNS_NOW - 66 * MINUTE))), 'timestamp_outside_tolerance')
  assert.equal(word(await judge(at(SNS_NOW + 6 * MINUTE))), 'timestamp_outside_tolerance')
  assert.equal(word(await judge(snsMessage({ Timestamp: 'yesterday' }))), 'proof_malformed')
})

describe('the address of the certificate', () => {
  const file = 'SimpleNotificationService-0123456789abcdef0123456789abcdef.pem'
  for (const url of [
    `http://sns.eu-west-1.amazonaws.com/${file}`,
    `https://sns.eu-west-1.amazonaws.com.evil.example/${file}`,
    `https://evil.example/sns.eu-west-1.amazonaws.com/${file}`,
    `https://sns.eu-west-1.amazonaws.com@evil.example/${file}`,
    `https://evil@sns.eu-west-1.amazonaws.com/${file}`,
    `https://sns.eu-west-1.amazonaws.com:8443/${file}`,
    `https://sns.eu-west-1.amazonaws.com/${file}?x=1`,
    `https://sns.eu-west-1.amazonaws.com/${file}#x`,
    `https://sns.eu-west-1.amazonaws.com/../${file}`,
    `https://sns.eu-west-1.amazonaws.com/x/${file}`,
    'https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-.pem',
    'https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-xyz.pem',
    `https://sns.evil.eu-west-1.amazonaws.com/${file}`,
    `https://s3.eu-west-1.amazonaws.com/${file}`,
    `https://sns.us-east-1.amazonaws.com/${file}`,
    `https://sns.eu-west-1.amazonaws.com.cn/${file}`,
    `https://SNS.eu-west-1.amazonaws.com/${file}`,
    ` https://sns.eu-west-1.amazonaws.com/${file}`,
    `https://sns.eu-west-1.amazonaws.com/${file}\n`,
    'https://169.254.169.254/latest/meta-data',
    'file:///etc/passwd',
    '',
  ]) {
    test(`${JSON.stringify(url)} is never fetched`, async () => {
      const { judge, asked } = verifier()
      assert.equal(word(await judge(snsMessage({ SigningCertURL: url }))), 'certificate_url_refused')
      assert.deepEqual(asked, [])
    })
  }
})

describe('the certificate', () => {
  const answered = (body: string, status = 200): Fetched => ({ kind: 'answered', status, body })

  test('of a region, and with its issuer behind it, is believed', async () => {
    for (const pem of [REGIONAL_CERTIFICATE, REGIONAL_CERTIFICATE + CA_CERTIFICATE]) {
      assert.equal(word(await verifier(answered(pem)).judge(snsMessage())), 'proved')
    }
  })

  test('of another name, outside its dates, or behind an issuer that is not its own, is refused', async () => {
    for (const pem of [
      STRANGER_CERTIFICATE,
      CA_CERTIFICATE,
      SIGNER_CERTIFICATE + CA_CERTIFICATE,
      REGIONAL_CERTIFICATE + SIGNER_CERTIFICATE,
    ]) {
      assert.equal(word(await verifier(answered(pem)).judge(snsMessage())), 'certificate_unusable')
    }
    for (const now of [Date.UTC(2025, 0, 1), Date.UTC(2200, 0, 1)]) {
      const message = snsMessage({ Timestamp: new Date(now).toISOString() })
      assert.equal(word(await verifier().judge(message, now)), 'certificate_unusable')
    }
  })

  test('that is garbage, missing, moved or too large is refused', async () => {
    for (const answer of [
      answered('not a certificate'),
      answered('-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----'),
      answered(''),
      answered(SIGNER_CERTIFICATE, 404),
      { kind: 'unusable', error: 'a redirect' },
    ] as const) {
      assert.equal(word(await verifier(answer).judge(snsMessage())), 'certificate_unusable')
    }
  })

  test('that cannot be had now puts a message off: it may be right', async () => {
    for (const answer of [
      { kind: 'unreachable', error: 'x' },
      answered('', 503),
      answered('', 429),
    ] as const) {
      const { judge, asked } = verifier(answer)
      assert.equal(word(await judge(snsMessage())), 'certificate_unreachable')
      await judge(snsMessage())
      assert.equal(asked.length, 2, 'it is asked for again')
    }
  })

  test('is asked for once by many at a time, and few are asked for at once', async () => {
    const waiting: ((fetched: Fetched) => void)[] = []
    const certificates = new SnsCertificates(() => new Promise((resolve) => waiting.push(resolve)))
    const url = (n: number) => CERTIFICATE_URL.replace('0123', `000${n}`)
    const now = new Date(SNS_NOW)
    const same = Array.from({ length: 50 }, () => certificates.keyAt(url(0), now))
    const others = [1, 2, 3].map((n) => certificates.keyAt(url(n), now))
    assert.equal((await certificates.keyAt(url(4), now)).kind, 'unreachable')
    assert.equal(waiting.length, 4)
    for (const resolve of waiting) resolve(answered(SIGNER_CERTIFICATE))
    for (const key of await Promise.all([...same, ...others])) assert.equal(key.kind, 'usable')
  })
})

describe('a subscription', () => {
  const wish = snsMessage({ Type: 'SubscriptionConfirmation', Message: 'You have chosen to subscribe' })

  test('is confirmed at the topic’s own endpoint, never at the address given', async () => {
    const verdict = await verifier().judge(wish)
    assert.deepEqual(verdict, { kind: 'subscription', topicArn: TOPIC, token: 'a-token' })
    const asked: string[] = []
    const isConfirmed = await confirmSubscription(async (url) => {
      asked.push(url)
      return { kind: 'answered', status: 200, body: '<ConfirmSubscriptionResponse/>' }
    }, verdict)
    assert.equal(isConfirmed, true)
    const [url] = asked.map((each) => new URL(each))
    assert.equal(url?.origin, 'https://sns.eu-west-1.amazonaws.com')
    assert.deepEqual(Object.fromEntries(url?.searchParams ?? []), {
      Action: 'ConfirmSubscription',
      Version: '2010-03-31',
      TopicArn: TOPIC,
      Token: 'a-token',
    })
  })

  test('with an altered token or address is refused', async () => {
    for (const name of ['Token', 'SubscribeURL']) {
      assert.equal(word(await verifier().judge({ ...wish, [name]: 'other' })), 'signature_wrong')
    }
  })

  test('of a topic that is not listed asks nobody anything', async () => {
    const { judge, asked } = verifier()
    assert.equal(word(await judge(wish, SNS_NOW, ['arn:aws:sns:eu-west-1:1:other'])), 'topic_not_listed')
    assert.deepEqual(asked, [])
  })

  test('of a topic in China is confirmed in China, and what is no topic nowhere', async () => {
    const asked: string[] = []
    const fetch: PinnedFetch = async (url) => {
      asked.push(url)
      return { kind: 'answered', status: 403, body: '' }
    }
    const inChina = { topicArn: 'arn:aws-cn:sns:cn-north-1:123456789012:a', token: 't' }
    assert.equal(await confirmSubscription(fetch, inChina), false, 'a refusal is no confirmation')
    assert.equal(
      await confirmSubscription(fetch, { topicArn: 'arn:aws:sns:evil.example/:1:a', token: 't' }),
      false,
    )
    assert.equal(asked.length, 1)
    assert.match(asked[0] ?? '', /^https:\/\/sns\.cn-north-1\.amazonaws\.com\.cn\/\?/)
  })
})

test('any bytes and any JSON are refused, and nothing is fetched for them', async () => {
  const { judge, asked } = verifier()
  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.string(), fc.json()), async (body) => {
      assert.equal((await judge(body)).kind, 'refused')
    }),
  )
  assert.deepEqual(asked, [])
})
