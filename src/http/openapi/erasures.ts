import { z } from 'zod'
import { erasureSchema } from '../erasures.ts'
import { answerSchema, type Operation, requestSchema } from './operation.ts'

const erase = requestSchema('Erase', erasureSchema, {
  address: 'Of the person. Mail to it, and what else names it, goes; a suppression stays as a keyed hash.',
})

const part = z.strictObject({ what: z.string(), rows: z.int() })
const erasedSchema = answerSchema(
  'Erasure',
  z.strictObject({
    object: z.literal('erasure'),
    complete: z.boolean(),
    erased: z.array(part),
    left: z.array(part),
  }),
  {
    complete: 'False when something was in use: ask again in a moment.',
    erased: 'How many rows of which table; empty when there was nothing.',
    left: 'What was in use.',
  },
)

export const erasureOperations: readonly Operation[] = [
  {
    method: 'POST',
    path: '/erasures',
    id: 'erase',
    tag: 'Erasure',
    summary: 'Erase a person',
    description: 'Safe to repeat. Backups, and pages that Postgres has not reused yet, are not reached.',
    body: { schema: erase, example: { address: 'ann@example.com' } },
    answer: {
      description: 'What was removed.',
      schema: erasedSchema,
      example: {
        object: 'erasure',
        complete: true,
        erased: [
          { what: 'message', rows: 12 },
          { what: 'message_content', rows: 12 },
        ],
        left: [],
      },
    },
  },
]
