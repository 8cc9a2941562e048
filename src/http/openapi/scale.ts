import { z } from 'zod'
import { answerSchema, type Operation } from './operation.ts'

const rate = z.number()

const scaleSchema = answerSchema(
  'Scale',
  z.strictObject({
    object: z.literal('scale'),
    workers: z.int(),
    current_workers: z.int(),
    wanted_per_s: rate,
    allowed_per_s: rate,
    rate_per_worker: rate,
    reason: z.string(),
    streams: z.array(
      z.strictObject({
        stream: z.string(),
        waiting: z.int(),
        arrival_per_s: rate,
        send_within_s: z.int(),
        wanted_per_s: rate,
        allowed_per_s: rate,
        limited_by: z.enum(['workers', 'provider', 'nothing']),
        reason: z.string(),
      }),
    ),
  }),
  {
    workers: 'Worker processes that are needed now.',
    current_workers: 'Worker processes that were heard of in the last 30 seconds.',
    wanted_per_s: 'Messages a second at which everything would be sent in time.',
    allowed_per_s: 'What the providers let through of that.',
    rate_per_worker: 'Messages a second that one worker process sends.',
  },
)

export const scaleOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/scale',
    id: 'getScale',
    tag: 'Service',
    summary: 'Ask how many workers are needed',
    description:
      'From what waits, what comes, the time within which each stream is to be sent, and what the providers let through. For autoscalers; docs/scaling.md has the arithmetic.',
    answer: {
      description: 'The number, and why.',
      schema: scaleSchema,
      example: {
        object: 'scale',
        workers: 3,
        current_workers: 1,
        wanted_per_s: 620,
        allowed_per_s: 620,
        rate_per_worker: 250,
        reason: '620.0 messages a second are to be sent, 250.0 by each worker.',
        streams: [
          {
            stream: 'transactional',
            waiting: 600,
            arrival_per_s: 500,
            send_within_s: 5,
            wanted_per_s: 620,
            allowed_per_s: 620,
            limited_by: 'workers',
            reason: '500.0 a second come and 600 wait, to be sent within 5 s.',
          },
        ],
      },
    },
  },
]
