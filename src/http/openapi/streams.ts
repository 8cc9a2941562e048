import { z } from 'zod'
import { namePattern, providerSchema, streamSchema } from '../control.ts'
import { answerSchema, described, listSchema, moment, type Operation, requestSchema } from './operation.ts'

const change = requestSchema('StreamChanges', streamSchema, {
  priority: 'Of messages that name none: 0 goes first, 9 last.',
  route: 'Providers in the order they are tried.',
  on_unknown:
    'When nobody can know whether a provider took a message: `retry` sends again, `hold` waits for a person or a webhook.',
  attempts: 'Failed attempts before a message becomes a dead letter.',
  backoff_base_s: 'The pause after the first failed attempt, at most.',
  backoff_factor: 'How much longer each further pause is.',
  backoff_cap_s: 'The longest pause.',
  max_age_s: 'A message that is still deferred at this age becomes a dead letter, whatever its attempts.',
  slots: 'Sends in flight at once, per provider and worker process.',
  send_within_s:
    'Within how many seconds its mail should be sent: what `GET /scale` aims at. Null: 5 for urgent streams (priority 0 to 3), 30 for others.',
  windows:
    'All of its send windows, which replace those there are. Without one its mail may go at any time. `time_zone` is an IANA name; a window that closes no later than it opens does so on the next day.',
  content_days: 'Bodies, subjects and attachments stay so many days; 0: until the message is settled.',
  metadata_days: 'Everything else of a message stays so many days; at least as long as content.',
  unsubscribe:
    'Whether its mail can be unsubscribed from: `List-Unsubscribe`, and `unsubscribe_url` in templates.',
  unsubscribe_mailto: 'An address that is offered beside the link.',
  requires_unsubscribe: 'Whether a message that offers no way out becomes a dead letter.',
  postal_address: "The sender's, as `postal_address` in templates.",
  bounce_domain:
    'Its mail has envelope senders of its own at this domain, whose bounces are followed to the message.',
  requires_postal_address: 'Whether a message that does not show it becomes a dead letter.',
  is_sensitive: 'All of its mail is handled as if each message said `sensitive`.',
})

const paused = { created_at: moment, paused_at: moment.nullable(), paused_by: z.string().nullable() }

const rowSchema = answerSchema(
  'Stream',
  z.strictObject({
    name: z.string(),
    ...streamSchema.required().shape,
    opens_at: moment.nullable(),
    ...paused,
  }),
  {
    opens_at: 'When its send window opens; null when it may send now. Until then its mail waits.',
    paused_at: 'Since when its mail is accepted and processed, and waits.',
  },
)
const listOfStreams = listSchema('StreamList', rowSchema)

const pausedSchema = answerSchema(
  'Paused',
  z.strictObject({
    object: z.enum(['stream', 'provider']),
    name: z.string(),
    paused: z.boolean(),
    message: z.string(),
  }),
  { message: 'What that means for its mail.' },
)

const bucketTexts =
  'All of its token buckets: what it allows per second, day, or any other time. They replace those there are.'
const changeProvider = requestSchema('ProviderChanges', providerSchema, {
  transport: 'How it is spoken to. Required for a new one.',
  credentials_env: 'The environment variable that holds its credentials. Required but for `inbox`.',
  base_url: 'Another address of an HTTP provider: another region, a stand-in.',
  options: 'ses: `region`, `configuration_set`; mailgun: `domain`, `region`; postmark: `message_stream`.',
  reserve: 'When it says itself that fewer requests than this remain, they are left to urgent streams.',
  breaker_share: 'Share of its faults over 60 seconds at which the breaker opens.',
  breaker_volume: 'Requests in those 60 seconds below which the share means nothing.',
  breaker_run: 'Faults in a row at which it opens whatever the volume.',
  breaker_cooldown_s: 'How long it stays open at first; doubles with each failed return.',
  breaker_cooldown_cap_s: 'And at most.',
  buckets: bucketTexts,
})

const columns = {
  name: z.string(),
  ...providerSchema.omit({ buckets: true }).required().shape,
  credentials_env: z.string().nullable(),
  ...paused,
}
const savedProviderSchema = answerSchema('SavedProvider', z.strictObject(columns))
const bucketSchema = answerSchema(
  'BucketLevel',
  z.strictObject({
    provider: z.string(),
    name: z.string(),
    counts: z.enum(['messages', 'requests']),
    rate_per_s: z.number(),
    capacity: z.number(),
    kept_for_urgent: z.number(),
    available: z.number(),
    as_of: moment,
  }),
  { available: 'Tokens in it now.', kept_for_urgent: 'Of which so many are for urgent streams.' },
)
const providerRowSchema = answerSchema(
  'Provider',
  z.strictObject({
    ...columns,
    status: z.string(),
    until: moment.nullable(),
    breaker: z.enum(['closed', 'open', 'half_open']),
    requests_60s: z.int(),
    faults_60s: z.int(),
    remaining: z.int().nullable(),
    in_flight: z.int(),
    buckets: z.array(bucketSchema),
  }),
  {
    status: '`sending`, or why not.',
    until: 'Until when it does not.',
    remaining: 'Requests that it says it has left for us.',
    in_flight: 'Messages that are being sent by it.',
  },
)
const listOfProviders = listSchema('ProviderList', providerRowSchema)

const nameParam = (what: string) => described(z.object({ name: namePattern }), { name: `Of the ${what}.` })

const STREAM = {
  ...{ name: 'digests', priority: 8, route: ['default'], on_unknown: 'hold', attempts: 5 },
  ...{ backoff_base_s: 30, backoff_factor: 4, backoff_cap_s: 3600 },
  ...{ max_age_s: 259_200, slots: 20, send_within_s: null },
  ...{ content_days: 30, metadata_days: 90 },
  ...{ unsubscribe: false, unsubscribe_mailto: null, requires_unsubscribe: false },
  ...{ postal_address: null, requires_postal_address: false, is_sensitive: false, bounce_domain: null },
  windows: [
    { days: ['mon', 'tue', 'wed', 'thu'], opens: '20:00', closes: '08:00', time_zone: 'Europe/Berlin' },
  ],
  opens_at: '2026-11-23T19:00:00.000Z',
  ...{ created_at: '2026-11-21T09:00:00.000Z', paused_at: null, paused_by: null },
}
const PROVIDER = {
  ...{ name: 'ses-eu', transport: 'ses', credentials_env: 'SES_EU_CREDENTIALS', base_url: null },
  ...{ options: { region: 'eu-central-1' }, reserve: 100, breaker_share: 0.05, breaker_volume: 20 },
  ...{ breaker_run: 5, breaker_cooldown_s: 5, breaker_cooldown_cap_s: 120 },
  ...{ created_at: '2026-11-21T09:00:00.000Z', paused_at: null, paused_by: null },
}
const LEVEL = {
  ...{ provider: 'ses-eu', name: 'second', counts: 'messages', rate_per_s: 11.9, capacity: 11.9 },
  ...{ kept_for_urgent: 0, available: 7.5, as_of: '2026-11-21T09:30:00.125Z' },
}

function pauseOperations(
  tag: 'Streams' | 'Providers',
  path: string,
  what: 'stream' | 'provider',
): Operation[] {
  const noun = tag === 'Streams' ? 'Stream' : 'Provider'
  return [
    {
      method: 'POST',
      path: `${path}/:name/pause`,
      id: `pause${noun}`,
      tag,
      summary: `Pause a ${what}`,
      description: 'Its mail is accepted and processed, and waits. May be said twice.',
      params: nameParam(what),
      answer: {
        description: 'Paused.',
        schema: pausedSchema,
        example: { object: what, name: 'digests', paused: true, message: `${what} digests is paused` },
      },
      problems: [422],
    },
    {
      method: 'POST',
      path: `${path}/:name/resume`,
      id: `resume${noun}`,
      tag,
      summary: `Resume a ${what}`,
      description: 'May be said twice.',
      params: nameParam(what),
      answer: {
        description: 'Resumed.',
        schema: pausedSchema,
        example: { object: what, name: 'digests', paused: false, message: `${what} digests is resumed` },
      },
      problems: [422],
    },
  ]
}

export const streamOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/streams',
    id: 'listStreams',
    tag: 'Streams',
    summary: 'List streams',
    answer: {
      description: 'All of them, by name.',
      schema: listOfStreams,
      example: { object: 'list', has_more: false, data: [STREAM] },
    },
  },
  {
    method: 'PUT',
    path: '/streams/:name',
    id: 'saveStream',
    tag: 'Streams',
    summary: 'Make or change a stream',
    description: 'Absent fields stay as they are, or take their default. Workers notice within a second.',
    params: nameParam('stream'),
    body: { schema: change, example: { priority: 8, attempts: 5, on_unknown: 'hold' } },
    answer: { description: 'As it is now.', schema: rowSchema, example: STREAM },
  },
  ...pauseOperations('Streams', '/streams', 'stream'),
]

export const providerOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/providers',
    id: 'listProviders',
    tag: 'Providers',
    summary: 'List providers and how they are doing',
    answer: {
      description: 'All of them, by name.',
      schema: listOfProviders,
      example: {
        object: 'list',
        has_more: false,
        data: [
          {
            ...PROVIDER,
            ...{ status: 'sending', until: null, breaker: 'closed', requests_60s: 312, faults_60s: 0 },
            ...{ remaining: null, in_flight: 4, buckets: [LEVEL] },
          },
        ],
      },
    },
  },
  {
    method: 'PUT',
    path: '/providers/:name',
    id: 'saveProvider',
    tag: 'Providers',
    summary: 'Make or change a provider',
    description: 'Absent fields stay as they are, or take their default. Workers notice within a second.',
    params: nameParam('provider'),
    body: {
      schema: changeProvider,
      example: {
        transport: 'ses',
        credentials_env: 'SES_EU_CREDENTIALS',
        options: { region: 'eu-central-1' },
        buckets: [{ name: 'second', quota: 14 }],
      },
    },
    answer: { description: 'As it is now.', schema: savedProviderSchema, example: PROVIDER },
  },
  ...pauseOperations('Providers', '/providers', 'provider'),
]
