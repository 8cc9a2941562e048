import { z } from 'zod'
import { answerSchema, listSchema, moment } from './operation.ts'

const identity = {
  object: z.literal('template'),
  id: z.uuid(),
  name: z.string(),
  alias: z.string().nullable(),
}
const status = z.enum(['draft', 'published'])

export const listedTemplateSchema = answerSchema(
  'ListedTemplate',
  z.strictObject({
    ...identity,
    status,
    created_at: moment,
    updated_at: moment,
    published_at: moment.nullable(),
  }),
  { status: '`published` once any of its versions is.' },
)
export type ListedTemplateAnswer = z.output<typeof listedTemplateSchema>

export const templateVariableSchema = z.strictObject({
  key: z.string(),
  type: z.enum(['string', 'number']),
  fallback_value: z.union([z.string(), z.number()]).nullable(),
  created_at: moment,
  updated_at: moment,
})
export type TemplateVariableAnswer = z.output<typeof templateVariableSchema>

export const templateSchema = answerSchema(
  'Template',
  z.strictObject({
    ...listedTemplateSchema.shape,
    subject: z.string().nullable(),
    html: z.string().nullable(),
    text: z.string().nullable(),
    from: z.string().nullable(),
    reply_to: z.array(z.string()).readonly().nullable(),
    variables: z.array(templateVariableSchema).nullable(),
    has_unpublished_versions: z.boolean(),
    current_version_id: z.uuid(),
    version: z.int(),
    strict: z.boolean(),
    uses: z.array(z.string()).readonly(),
  }),
  {
    version: 'Whose content is shown: the draft when there is one, or the one that was asked for.',
    strict: 'Whether a message without one of the variables fails.',
    uses: 'The templates that it uses, by name.',
  },
)
export type TemplateAnswer = z.output<typeof templateSchema>

export const templateVersionSchema = answerSchema(
  'TemplateVersion',
  z.strictObject({
    ...identity,
    version: z.int(),
    version_id: z.uuid(),
    status,
    published_at: moment.nullable(),
  }),
)
export type TemplateVersionAnswer = z.output<typeof templateVersionSchema>

export const removedTemplateSchema = answerSchema(
  'RemovedTemplate',
  z.strictObject({ object: z.literal('template'), id: z.uuid(), deleted: z.literal(true) }),
)

export const templatePreviewSchema = answerSchema(
  'TemplatePreview',
  z.strictObject({
    object: z.literal('template_preview'),
    id: z.uuid(),
    name: z.string(),
    version: z.int(),
    subject: z.string().nullable(),
    html: z.string().nullable(),
    text: z.string().nullable(),
    from: z.string().nullable(),
    reply_to: z.array(z.string()).readonly().nullable(),
    missing: z.array(z.string()),
  }),
  { missing: 'Variables that it uses and that were not given.' },
)
export type TemplatePreviewAnswer = z.output<typeof templatePreviewSchema>

export const templateListSchema = listSchema('TemplateList', listedTemplateSchema)
export const templateVersionListSchema = listSchema('TemplateVersionList', templateVersionSchema)
