import { z } from 'zod'
import { changesSchema, draftSchema, previewSchema, versionSchema } from '../template-input.ts'
import { described, type Operation, requestSchema } from './operation.ts'
import { PAGE_TEXTS, pageParameters } from './page-parameters.ts'
import {
  type ListedTemplateAnswer,
  removedTemplateSchema,
  type TemplateVersionAnswer,
  templateListSchema,
  templatePreviewSchema,
  templateSchema,
  templateVersionListSchema,
  templateVersionSchema,
} from './template-answers.ts'

const TEXTS = {
  name: 'One line, at most 200 characters, no name or alias of another template.',
  alias: 'Another name, of ASCII letters, digits, `-` and `_`.',
  subject: 'Liquid, as the bodies.',
  html: 'Liquid; at least one of `html` and `text`.',
  text: 'Liquid. Made of the HTML when it is left out.',
  from: 'For messages that name none.',
  reply_to: 'For messages that name none: an address or a list.',
  variables: 'What a message has to give, and what stands for it when it does not; at most 100.',
  strict: 'Whether a message without one of the variables fails, instead of having nothing in its place.',
}

const draft = requestSchema('NewTemplate', draftSchema, TEXTS)
const changes = requestSchema('TemplateChanges', changesSchema, TEXTS)
const version = requestSchema('TemplateVersionNumber', versionSchema, {
  version: 'A published version of this template.',
})
const preview = requestSchema('PreviewTemplate', previewSchema, {
  version: 'The draft when absent, or the latest.',
  variables: 'As a message would give them.',
})

const reference = described(z.object({ reference: z.string() }), {
  reference: 'The id, alias or name of the template.',
})

const LISTED: ListedTemplateAnswer = {
  object: 'template',
  id: '019ac5a8-2b10-7e4f-a1c2-93d5e8f70b64',
  name: 'welcome',
  alias: null,
  status: 'published',
  created_at: '2026-11-20T08:00:00.000Z',
  updated_at: '2026-11-21T09:00:00.000Z',
  published_at: '2026-11-21T09:00:00.000Z',
}
const VERSION: TemplateVersionAnswer = {
  object: 'template',
  id: LISTED.id,
  name: 'welcome',
  alias: null,
  version: 1,
  version_id: '019ac5a8-2b11-7a30-b7d8-4e2f6c1a9058',
  status: 'draft',
  published_at: null,
}
const PUBLISHED: TemplateVersionAnswer = {
  ...VERSION,
  status: 'published',
  published_at: LISTED.published_at,
}

const written = (description: string, example: TemplateVersionAnswer = VERSION) => ({
  description,
  schema: templateVersionSchema,
  example,
})

export const templateOperations: readonly Operation[] = [
  {
    method: 'POST',
    path: '/templates',
    id: 'createTemplate',
    tag: 'Templates',
    summary: 'Make a template',
    description: 'With a draft, which messages use once it is published.',
    body: {
      schema: draft,
      example: { name: 'welcome', subject: 'Welcome, {{ name }}', html: '<p>Hello {{ name }}.</p>' },
    },
    answer: written('Made.'),
  },
  {
    method: 'GET',
    path: '/templates',
    id: 'listTemplates',
    tag: 'Templates',
    summary: 'List templates',
    description: 'The latest made first, without their content.',
    query: described(z.object(pageParameters(100, 20)), PAGE_TEXTS),
    answer: {
      description: 'A page of the list.',
      schema: templateListSchema,
      example: { object: 'list', has_more: false, data: [LISTED] },
    },
  },
  {
    method: 'GET',
    path: '/templates/:reference',
    id: 'getTemplate',
    tag: 'Templates',
    summary: 'Look at a template',
    params: reference,
    query: described(z.object({ version: z.int().min(1).optional() }), {
      version: 'The draft when absent, or the latest.',
    }),
    answer: {
      description: 'The template with its content.',
      schema: templateSchema,
      example: {
        ...LISTED,
        subject: 'Welcome, {{ name }}',
        html: '<p>Hello {{ name }}.</p>',
        text: null,
        from: null,
        reply_to: null,
        variables: null,
        has_unpublished_versions: false,
        current_version_id: VERSION.version_id,
        version: 1,
        strict: false,
        uses: [],
      },
    },
  },
  {
    method: 'PATCH',
    path: '/templates/:reference',
    id: 'changeTemplate',
    tag: 'Templates',
    summary: 'Change a template',
    description:
      'Name and alias at once, content in the draft: of a published template the next version begins. Absent fields stay; null takes one away.',
    params: reference,
    body: { schema: changes, example: { subject: 'Welcome to the shop, {{ name }}' } },
    answer: written('Changed.'),
  },
  {
    method: 'DELETE',
    path: '/templates/:reference',
    id: 'removeTemplate',
    tag: 'Templates',
    summary: 'Remove a template',
    description: 'Its names are free again; mail that was accepted with it still goes out.',
    params: reference,
    answer: {
      description: 'Removed.',
      schema: removedTemplateSchema,
      example: { object: 'template', id: LISTED.id, deleted: true },
    },
  },
  {
    method: 'POST',
    path: '/templates/:reference/publish',
    id: 'publishTemplate',
    tag: 'Templates',
    summary: 'Publish the draft',
    description: 'From now on messages use it. Without a draft, all stays as it is.',
    params: reference,
    answer: written('Published.', PUBLISHED),
    problems: [422],
  },
  {
    method: 'POST',
    path: '/templates/:reference/duplicate',
    id: 'duplicateTemplate',
    tag: 'Templates',
    summary: 'Copy a template',
    params: reference,
    answer: written('A new template, with a draft.', { ...VERSION, name: 'welcome (copy)' }),
    problems: [422],
  },
  {
    method: 'GET',
    path: '/templates/:reference/versions',
    id: 'listTemplateVersions',
    tag: 'Templates',
    summary: 'List the versions of a template',
    description: 'The draft first, then the latest.',
    params: reference,
    answer: {
      description: 'All versions.',
      schema: templateVersionListSchema,
      example: { object: 'list', has_more: false, data: [PUBLISHED] },
    },
  },
  {
    method: 'POST',
    path: '/templates/:reference/rollback',
    id: 'rollBackTemplate',
    tag: 'Templates',
    summary: 'Go back to an older version',
    description: 'Publishes what it holds as a new version; the draft stays.',
    params: reference,
    body: { schema: version, example: { version: 1 } },
    answer: written('Published.', { ...PUBLISHED, version: 3 }),
  },
  {
    method: 'POST',
    path: '/templates/:reference/preview',
    id: 'previewTemplate',
    tag: 'Templates',
    summary: 'Render a template',
    description: 'What a message with these variables would be. Nothing is stored or sent.',
    params: reference,
    body: { schema: preview, example: { variables: { name: 'Ann' } } },
    answer: {
      description: 'As it would be.',
      schema: templatePreviewSchema,
      example: {
        object: 'template_preview',
        id: LISTED.id,
        name: 'welcome',
        version: 1,
        subject: 'Welcome, Ann',
        html: '<p>Hello Ann.</p>',
        text: 'Hello Ann.',
        from: null,
        reply_to: null,
        missing: [],
      },
    },
  },
]
