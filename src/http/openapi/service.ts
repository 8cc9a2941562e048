import { z } from 'zod'
import { answerSchema, type Operation } from './operation.ts'

const aliveSchema = answerSchema('Alive', z.strictObject({ status: z.literal('ok') }))
const readySchema = answerSchema(
  'Ready',
  z.strictObject({
    status: z.literal('ready'),
    held: z
      .string()
      .optional()
      .meta({ description: 'Why nothing is sent at the moment; mail is accepted all the same.' }),
  }),
)

export const serviceOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/healthz',
    id: 'isAlive',
    tag: 'Service',
    summary: 'Whether this process runs',
    answer: { description: 'It does.', schema: aliveSchema, example: { status: 'ok' } },
    problems: [500],
  },
  {
    method: 'GET',
    path: '/readyz',
    id: 'isReady',
    tag: 'Service',
    summary: 'Whether this process can do its work',
    description: 'Which takes the database. Otherwise 503.',
    answer: { description: 'It can.', schema: readySchema, example: { status: 'ready' } },
    problems: [503],
  },
  {
    method: 'GET',
    path: '/metrics',
    id: 'getMetrics',
    tag: 'Service',
    summary: 'How this process and the whole system are doing, for Prometheus',
    description:
      "Prometheus' text format; docs/monitoring.md explains each metric. Not here but on `SLUICE_METRICS_PORT` where that is set.",
    answer: {
      description: 'Answered within a second; without what the database knows while that is away.',
      otherForms: { 'text/plain': { example: 'sluice_database_up 1\n' } },
    },
    problems: [500],
  },
  {
    method: 'GET',
    path: '/openapi.json',
    id: 'getDocument',
    tag: 'Service',
    summary: 'This document',
    description: 'OpenAPI 3.1; `/docs` shows it for reading and trying.',
    answer: { description: 'The document.', schema: z.looseObject({}), example: { openapi: '3.1.1' } },
    problems: [500],
  },
]
