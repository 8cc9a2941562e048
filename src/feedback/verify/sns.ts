import { createVerify } from 'node:crypto'
import { z } from 'zod'
import type { PinnedFetch } from '../pinned-fetch.ts'
import { readJson } from '../read-json.ts'
import { type Delivery, isFresh, refused, type Verdict } from './proof.ts'
import type { SnsCertificates } from './sns-certificates.ts'

/** SNS repeats for an hour at most, with the first attempt's timestamp. */
const TOLERANCE = { pastS: 3_900, futureS: 300 }
const CONFIRM_LIMITS = { maxBytes: 64 * 1_024, timeoutMs: 8_000 }

/** The whole address: https on its usual port, one label for the region, nothing before the host or behind the path. */
const CERTIFICATE_URL =
  /^https:\/\/(sns\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?)\/SimpleNotificationService-[0-9a-f]{1,64}\.pem$/
const TOPIC_ARN = /^arn:(aws[a-z-]*):sns:([a-z0-9-]{1,32}):\d+:[A-Za-z0-9_-]+(?:\.fifo)?$/

const text = z.string().max(1_000_000)
const Envelope = z.object({
  Type: z.enum(['Notification', 'SubscriptionConfirmation', 'UnsubscribeConfirmation']),
  MessageId: z.string().min(1).max(200),
  TopicArn: z.string().max(512),
  Message: text,
  Subject: text.nullish(),
  Timestamp: z.iso.datetime({ offset: true }),
  Token: z.string().max(4_096).optional(),
  SubscribeURL: z.string().max(8_192).optional(),
  SignatureVersion: z.string(),
  Signature: z.string().max(2_048),
  SigningCertURL: z.string().max(512),
})
type Envelope = z.infer<typeof Envelope>

export type SnsDeps = { readonly certificates: SnsCertificates }

/**
 * Amazon SNS, signature version 2 (SHA-256):
 * docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message-verify-message-signature.html
 *
 * Amazon's signature alone proves little: anybody can point a topic of their own at us. So the topic has to be
 * listed, which is looked at first; nothing is fetched for others.
 */
export async function verifySns(
  { certificates }: SnsDeps,
  { body }: Delivery,
  topicArns: readonly string[],
  nowMs: number,
): Promise<Verdict> {
  const read = Envelope.safeParse(readJson(body))
  if (!read.success) return refused('proof_malformed')
  const envelope = read.data
  if (!topicArns.includes(envelope.TopicArn)) return refused('topic_not_listed')
  if (!isFresh(Date.parse(envelope.Timestamp), nowMs, TOLERANCE))
    return refused('timestamp_outside_tolerance')
  if (envelope.SignatureVersion !== '2') return refused('signature_version_refused')
  const [, host] = CERTIFICATE_URL.exec(envelope.SigningCertURL) ?? []
  if (host === undefined || host !== hostOf(envelope.TopicArn)) return refused('certificate_url_refused')

  const found = await certificates.keyAt(envelope.SigningCertURL, new Date(nowMs))
  if (found.kind === 'unreachable') return { kind: 'unchecked', reason: 'certificate_unreachable' }
  if (found.kind === 'unusable') return refused('certificate_unusable')
  const isSigned = createVerify('RSA-SHA256')
    .update(signedText(envelope))
    .verify(found.key, Buffer.from(envelope.Signature, 'base64'))
  if (!isSigned) return refused('signature_wrong')
  const { Type, TopicArn: topicArn, Token: token } = envelope
  if (Type === 'SubscriptionConfirmation' && token !== undefined)
    return { kind: 'subscription', topicArn, token }
  return { kind: 'proved', eventKey: envelope.MessageId }
}

/** Name and value of each signed field, a line each, in the order of the alphabet. */
function signedText(envelope: Envelope): string {
  const names =
    envelope.Type === 'Notification'
      ? (['Message', 'MessageId', 'Subject', 'Timestamp', 'TopicArn', 'Type'] as const)
      : (['Message', 'MessageId', 'SubscribeURL', 'Timestamp', 'Token', 'TopicArn', 'Type'] as const)
  return names
    .flatMap((name) => (typeof envelope[name] === 'string' ? [`${name}\n${envelope[name]}\n`] : []))
    .join('')
}

/** The regional SNS endpoint of a topic; undefined for what is no topic. */
function hostOf(topicArn: string): string | undefined {
  const [, partition, region] = TOPIC_ARN.exec(topicArn) ?? []
  if (region === undefined) return undefined
  return `sns.${region}.amazonaws.com${partition === 'aws-cn' ? '.cn' : ''}`
}

/**
 * Says yes to a subscription (API action ConfirmSubscription) at the topic's own endpoint. The `SubscribeURL` of the
 * message is never called: it says the same, if it is honest.
 */
export async function confirmSubscription(
  fetch: PinnedFetch,
  { topicArn, token }: { readonly topicArn: string; readonly token: string },
): Promise<boolean> {
  const host = hostOf(topicArn)
  if (host === undefined) return false
  const query = new URLSearchParams({
    Action: 'ConfirmSubscription',
    Version: '2010-03-31',
    TopicArn: topicArn,
    Token: token,
  })
  const fetched = await fetch(`https://${host}/?${query}`, CONFIRM_LIMITS)
  return fetched.kind === 'answered' && fetched.status === 200
}
