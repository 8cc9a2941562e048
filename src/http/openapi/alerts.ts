import { z } from 'zod'
import { newTargetSchema, targetChangesSchema } from '../alert-targets.ts'
import { alertListSchema, MAX_ALERTS, ruleSchema, silenceSchema } from '../alerts.ts'
import { namePattern } from '../control.ts'
import { answerSchema, described, listSchema, moment, type Operation, requestSchema } from './operation.ts'
import { PAGE_TEXTS } from './page-parameters.ts'

const id = z.uuid()
const severity = z.enum(['warning', 'critical'])

const alertSchema = answerSchema(
  'Alert',
  z.strictObject({
    object: z.literal('alert'),
    id,
    rule: z.string(),
    subject: z.string(),
    severity,
    stream: z.string().nullable(),
    provider: z.string().nullable(),
    since: moment,
    fired_at: moment,
    last_seen_at: moment,
    resolved_at: moment.nullable(),
    value: z.number(),
    worst_value: z.number(),
    threshold: z.number(),
    what: z.string(),
    command: z.string(),
    page: z.string(),
    acknowledged_at: moment.nullable(),
    acknowledged_by: z.string().nullable(),
  }),
  {
    subject: 'The stream, provider, worker or the like that it is about; empty when there is only one.',
    since: 'When it was first above the threshold.',
    what: 'One sentence: what, and since when.',
    command: 'What to look at next, in psql.',
    page: 'The page of the dashboard.',
  },
)
const alertPageSchema = listSchema('AlertList', alertSchema)

const ruleTexts = {
  threshold: 'Fires above it.',
  clear_at: 'Over at this and below; at the threshold when null.',
  min_volume: 'Below so many it is not measured.',
  for_s: 'So long it has to last.',
  clear_for_s: 'So long it has to be over.',
  severity: '`critical` is told to every target.',
  stream: 'Only this one; each for itself when null.',
  provider: 'Only this one; each for itself when null.',
  urgent: 'True: only streams of priority 0 to 3; false: only the others.',
  enabled: 'False: not measured, and what it fired is over.',
  repeat_s: 'Told again so often until it is acknowledged; once when null.',
}
const ruleChanges = requestSchema('AlertRuleChanges', ruleSchema, ruleTexts)
const alertRuleSchema = answerSchema(
  'AlertRule',
  z.strictObject({
    object: z.literal('alert_rule'),
    name: z.string(),
    kind: z.string(),
    threshold: z.number(),
    clear_at: z.number().nullable(),
    min_volume: z.number().nullable(),
    for_s: z.int(),
    clear_for_s: z.int(),
    severity,
    stream: z.string().nullable(),
    provider: z.string().nullable(),
    urgent: z.boolean().nullable(),
    enabled: z.boolean(),
    repeat_s: z.int().nullable(),
    description: z.string(),
    command: z.string(),
    page: z.string(),
  }),
  { ...ruleTexts, kind: 'What is measured.' },
)
const ruleListSchema = listSchema('AlertRuleList', alertRuleSchema)
const silence = requestSchema('NewAlertSilence', silenceSchema, {
  until: 'Until then nobody is told.',
  subject: 'Only of alerts about this one; of all of the rule when absent or null.',
})
const silencedSchema = answerSchema(
  'AlertSilence',
  z.strictObject({
    object: z.literal('alert_silence'),
    rule: z.string(),
    subject: z.string().nullable(),
    until: moment,
    message: z.string(),
  }),
)

const targetTexts = {
  url: 'Where requests go. A URL that is a secret is better named by `url_env`.',
  url_env: 'The environment variable with the URL.',
  secret_env: 'Of `generic`: the environment variable with the secret (`whsec_…`) that signs the requests.',
  address: 'Of `email`: who is told.',
  sender: 'Of `email`: From.',
  min_severity: 'What is less severe is not told.',
  enabled: 'False: told of nothing.',
}
const newTarget = requestSchema('NewAlertTarget', newTargetSchema, {
  ...targetTexts,
  name: 'For people and logs.',
  kind: '`slack`: the form that Slack and others like it take; `generic`: JSON for a program; `email`.',
})
const targetChanges = requestSchema('AlertTargetChanges', targetChangesSchema, targetTexts)
const targetSchema = answerSchema(
  'AlertTarget',
  z.strictObject({
    object: z.literal('alert_target'),
    id,
    name: z.string(),
    kind: z.enum(['slack', 'generic', 'email']),
    host: z.string().nullable(),
    url_env: z.string().nullable(),
    secret_env: z.string().nullable(),
    address: z.string().nullable(),
    sender: z.string().nullable(),
    min_severity: severity,
    enabled: z.boolean(),
    created_at: moment,
    last_state: z.enum(['gathering', 'sending', 'sent', 'failed']).nullable(),
    last_error: z.string().nullable(),
    last_told_at: moment.nullable(),
  }),
  { host: 'Of the URL, which is not shown again.', last_state: 'Of the latest message to it.' },
)
const targetListSchema = listSchema('AlertTargetList', targetSchema)
const removedSchema = answerSchema(
  'RemovedAlertTarget',
  z.strictObject({ object: z.literal('alert_target'), id, deleted: z.literal(true) }),
)
const testedSchema = answerSchema(
  'TestedAlertTarget',
  z.strictObject({
    object: z.literal('alert_target'),
    id,
    delivered: z.boolean(),
    error: z.string().nullable(),
  }),
  { delivered: 'The target took it; of `email`: it is on its way.', error: 'Why not.' },
)

const ID = '019ac5a8-4d50-7f26-9a3b-c7f1e0d58b42'
const ALERT: z.output<typeof alertSchema> = {
  ...{ object: 'alert', id: ID, rule: 'breaker_open', subject: 'default', severity: 'critical' },
  ...{ stream: null, provider: 'default', since: '2026-11-21T09:00:00.000Z' },
  ...{ fired_at: '2026-11-21T09:00:00.000Z', last_seen_at: '2026-11-21T09:01:00.000Z', resolved_at: null },
  ...{ value: 2, worst_value: 2, threshold: 0, page: '/dashboard/providers' },
  what: 'The breaker of provider default is open: mail goes to the next provider of its stream’s route, or waits, since 2026-11-21 09:00:00 UTC.',
  command: "select * from mail.provider_status where provider = 'default';",
  ...{ acknowledged_at: null, acknowledged_by: null },
}
const RULE: z.output<typeof alertRuleSchema> = {
  ...{ object: 'alert_rule', name: 'lag', kind: 'lag', threshold: 10_000, clear_at: 8_000, min_volume: null },
  ...{ for_s: 30, clear_for_s: 60, severity: 'warning', stream: null, provider: null, urgent: null },
  ...{ enabled: true, repeat_s: null, page: '/' },
  description: 'Messages that could go on and wait in a stage.',
  command: 'select * from mail.queue;',
}
const TARGET: z.output<typeof targetSchema> = {
  ...{ object: 'alert_target', id: ID, name: 'team', kind: 'slack', host: null, url_env: 'SLACK_URL' },
  ...{ secret_env: null, address: null, sender: null, min_severity: 'warning', enabled: true },
  ...{ created_at: '2026-11-21T09:00:00.000Z', last_state: 'sent', last_error: null },
  last_told_at: '2026-11-21T09:00:01.000Z',
}

const idParam = (what: string) => described(z.object({ id }), { id: `Of the ${what}.` })
const nameParam = described(z.object({ name: namePattern }), { name: 'Of the rule.' })

export const alertOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/alerts',
    id: 'listAlerts',
    tag: 'Alerts',
    summary: 'List alerts',
    description: 'The latest first.',
    query: described(alertListSchema, {
      ...PAGE_TEXTS,
      limit: `How many at most, up to ${MAX_ALERTS}; 20 when absent.`,
      state: 'Only those that are open, or resolved.',
      rule: 'Only those of this rule.',
    }),
    answer: {
      description: 'A page of the list.',
      schema: alertPageSchema,
      example: { object: 'list', has_more: false, data: [ALERT] },
    },
  },
  {
    method: 'GET',
    path: '/alerts/:id',
    id: 'getAlert',
    tag: 'Alerts',
    summary: 'Look at an alert',
    params: idParam('alert'),
    answer: { description: 'As it is now.', schema: alertSchema, example: ALERT },
  },
  {
    method: 'POST',
    path: '/alerts/:id/acknowledge',
    id: 'acknowledgeAlert',
    tag: 'Alerts',
    summary: 'Say that somebody looks after an alert',
    description: 'Nobody is reminded of it any more. Safe to repeat.',
    params: idParam('alert'),
    answer: { description: 'As it is now.', schema: alertSchema, example: ALERT },
  },
  {
    method: 'GET',
    path: '/alert-rules',
    id: 'listAlertRules',
    tag: 'Alerts',
    summary: 'List alert rules',
    answer: {
      description: 'All of them, by name.',
      schema: ruleListSchema,
      example: { object: 'list', has_more: false, data: [RULE] },
    },
  },
  {
    method: 'PATCH',
    path: '/alert-rules/:name',
    id: 'changeAlertRule',
    tag: 'Alerts',
    summary: 'Change an alert rule',
    description: 'Holds at the next look, within five seconds.',
    params: nameParam,
    body: { schema: ruleChanges, example: { threshold: 50_000, clear_at: 40_000 } },
    answer: { description: 'As it is now.', schema: alertRuleSchema, example: RULE },
  },
  {
    method: 'POST',
    path: '/alert-rules/:name/silence',
    id: 'silenceAlertRule',
    tag: 'Alerts',
    summary: 'Tell nobody of the alerts of a rule for a while',
    description: 'They fire and are listed all the same; what is still there at the end is told then.',
    params: nameParam,
    body: { schema: silence, example: { until: '2026-11-21T12:00:00Z', subject: 'marketing' } },
    answer: {
      description: 'Silenced.',
      schema: silencedSchema,
      example: {
        ...{ object: 'alert_silence', rule: 'lag', subject: 'marketing', until: '2026-11-21T12:00:00.000Z' },
        message: 'nobody is told of lag about marketing until 2026-11-21 12:00:00+00',
      },
    },
    problems: [404],
  },
]

export const alertTargetOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/alert-targets',
    id: 'listAlertTargets',
    tag: 'Alerts',
    summary: 'List who is told of alerts',
    description: 'Beside the log, which always is.',
    answer: {
      description: 'All of them, by name.',
      schema: targetListSchema,
      example: { object: 'list', has_more: false, data: [TARGET] },
    },
  },
  {
    method: 'POST',
    path: '/alert-targets',
    id: 'createAlertTarget',
    tag: 'Alerts',
    summary: 'Have somebody told of alerts',
    description: 'It is told at once of what is wrong already.',
    body: { schema: newTarget, example: { name: 'team', kind: 'slack', url_env: 'SLACK_URL' } },
    answer: { description: 'Made.', schema: targetSchema, example: TARGET },
  },
  {
    method: 'GET',
    path: '/alert-targets/:id',
    id: 'getAlertTarget',
    tag: 'Alerts',
    summary: 'Look at a target of alerts',
    params: idParam('target'),
    answer: { description: 'All but its URL.', schema: targetSchema, example: TARGET },
  },
  {
    method: 'PATCH',
    path: '/alert-targets/:id',
    id: 'changeAlertTarget',
    tag: 'Alerts',
    summary: 'Change a target of alerts',
    description: 'A key of scope `operate` may change `min_severity` and `enabled`, and nothing else.',
    params: idParam('target'),
    body: { schema: targetChanges, example: { min_severity: 'critical' } },
    answer: { description: 'As it is now.', schema: targetSchema, example: TARGET },
  },
  {
    method: 'DELETE',
    path: '/alert-targets/:id',
    id: 'removeAlertTarget',
    tag: 'Alerts',
    summary: 'Tell a target no more',
    params: idParam('target'),
    answer: {
      description: 'Gone.',
      schema: removedSchema,
      example: { object: 'alert_target', id: ID, deleted: true },
    },
  },
  {
    method: 'POST',
    path: '/alert-targets/:id/test',
    id: 'testAlertTarget',
    tag: 'Alerts',
    summary: 'Tell a target of an alert that is none',
    params: idParam('target'),
    answer: {
      description: 'What came of it.',
      schema: testedSchema,
      example: { object: 'alert_target', id: ID, delivered: true, error: null },
    },
  },
]
