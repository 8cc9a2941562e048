import { z } from 'zod'

/**
 * What the document says of a route. The schemas are those that check requests, or that answers are made by; the
 * scopes are read from the route itself (see document.ts), so neither can be told wrongly here.
 */
export type Operation = {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** As the route has it: `/emails/:id`. */
  readonly path: string
  readonly id: string
  readonly tag: Tag
  readonly summary: string
  readonly description?: string
  readonly params?: Described
  readonly query?: Described
  readonly headers?: Described
  readonly body?: Body
  readonly answer: Answer
  /** Beside those that follow from the rest: of the key, of parameters, of a body (see problem-answers.ts). */
  readonly problems?: readonly ProblemStatus[]
}

export type Body = {
  readonly schema: z.ZodType
  /** JSON unless it says otherwise. */
  readonly type?: string
  readonly example: unknown
}

export type Answer = {
  readonly status?: 200 | 201
  readonly description: string
  readonly schema?: z.ZodType
  readonly example?: unknown
  /** Other forms of the same, by their content type. */
  readonly otherForms?: Readonly<Record<string, { readonly example: string }>>
  readonly headers?: readonly (keyof typeof ANSWER_HEADERS)[]
}

export type ProblemStatus = 400 | 401 | 403 | 404 | 408 | 409 | 413 | 415 | 422 | 429 | 500 | 503

/** What a page of the document is about, in its order. */
export const TAGS = {
  Emails: 'Handing mail in, following it, moving and canceling it.',
  Templates: 'Content that is stored, by versions: written, published, previewed, rolled back.',
  Suppressions: 'Addresses that get no mail.',
  Erasure: 'Removing a person everywhere.',
  'Dead letters': 'Mail that failed for good: looked at, retried, discarded.',
  Streams: 'Kinds of mail that must not hold each other up.',
  Providers: 'Where mail leaves, how fast, and how each is doing.',
  Statistics: 'What was sent and what became of it.',
  Alerts: 'What is wrong, when that is said, and to whom.',
  'API keys': 'Who may do what.',
  Webhooks: 'What your app is told.',
  'Webhook sources': 'Who may tell what became of mail.',
  'Provider webhooks': 'Where providers tell it. Each kind has a proof of its own in place of an API key.',
  Unsubscribe: 'Where the links in mail lead: for recipients and their mail programs.',
  Service: 'How this process is doing.',
} as const
export type Tag = keyof typeof TAGS

export const ANSWER_HEADERS = {
  'Sluice-Durability': {
    description:
      '`durable`: committed to a logged table. `buffered`: in the unlogged intake, which a crash of Postgres within the next milliseconds can empty.',
    schema: { type: 'string', enum: ['durable', 'buffered'] },
  },
  'Idempotent-Replayed': {
    description:
      'There, and `true`, when the answer is that of an earlier request with this `Idempotency-Key`.',
    schema: { type: 'string', enum: ['true'] },
  },
} as const

/** What each field is for, in the words of the document. */
type Texts<S extends z.ZodObject> = { readonly [Field in keyof z.input<S>]-?: string }
type AnyTexts = Readonly<Record<string, string>>

/** Parameters: of the path, the query, or headers. */
export type Described = { readonly schema: z.ZodObject; readonly texts: AnyTexts }

export function described<S extends z.ZodObject>(schema: S, texts: Texts<S>): Described {
  return { schema, texts }
}

type Named = { readonly id: string; readonly texts: AnyTexts }
export type NamedSchemas = z.core.$ZodRegistry<Named>

/** Schemas with a name of their own in the document. Those of requests take what may be given, the others say what comes. */
export const REQUEST_SCHEMAS: NamedSchemas = z.registry<Named>()
export const ANSWER_SCHEMAS: NamedSchemas = z.registry<Named>()

/** Names the schema of a body; every field says what it is for. */
export function requestSchema<S extends z.ZodObject>(id: string, schema: S, texts: Texts<S>): S {
  REQUEST_SCHEMAS.add(schema, { id, texts })
  return schema
}

/** Names the schema of an answer, or of a part that several have. */
export function answerSchema<S extends z.ZodObject>(id: string, schema: S, texts: Partial<Texts<S>> = {}): S {
  ANSWER_SCHEMAS.add(schema, { id, texts: texts as AnyTexts })
  return schema
}

/** A page of a list. */
export function listSchema<S extends z.ZodType>(id: string, item: S) {
  return answerSchema(
    id,
    z.strictObject({ object: z.literal('list'), has_more: z.boolean(), data: z.array(item) }),
    { has_more: 'Whether there are more beyond this page.' },
  )
}

/** A moment as the answers print it. */
export const moment = z.iso.datetime({ offset: true })
