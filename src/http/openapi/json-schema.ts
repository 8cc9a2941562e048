import { z } from 'zod'
import type { Described, NamedSchemas } from './operation.ts'

export type JsonSchema = z.core.JSONSchema.BaseSchema
type Io = 'input' | 'output'

/** No component is called so. */
const INLINE = '(inline)'
const COMPONENTS = '#/components/schemas/'

/** The schemas that have a name, as components of the document. */
export function componentsOf(schemas: NamedSchemas, io: Io): Record<string, JsonSchema> {
  const { schemas: made } = z.toJSONSchema(schemas, { ...optionsOf(io), uri: (id) => `${COMPONENTS}${id}` })
  return Object.fromEntries(
    Object.entries(made).map(([id, { $schema: _, $id: __, ...schema }]) => [
      id,
      withTexts(schema, textsOf(schemas, id)),
    ]),
  )
}

/** Any schema where it is used; those that have a name are referred to. */
export function jsonSchemaOf(schema: z.ZodType, schemas: NamedSchemas, io: Io): JsonSchema {
  const name = schemas.get(schema)?.id
  if (name !== undefined) return { $ref: `${COMPONENTS}${name}` }
  // Converted beside the named ones, so that what it holds of them becomes a reference.
  const all = z.registry<{ id: string }>()
  for (const [id, named] of schemas._idmap) all.add(named as z.ZodType, { id })
  all.add(schema, { id: INLINE })
  const made = z.toJSONSchema(all, { ...optionsOf(io), uri: (id) => `${COMPONENTS}${id}` }).schemas[INLINE]
  const { $schema: _, $id: __, ...rest } = made ?? {}
  return rest
}

export type Parameter = {
  readonly name: string
  readonly in: 'path' | 'query' | 'header'
  readonly required: boolean
  readonly description: string
  readonly schema: JsonSchema
}

/** One parameter for each field. */
export function parametersOf({ schema, texts }: Described, place: Parameter['in']): Parameter[] {
  const made = z.toJSONSchema(schema, optionsOf('input'))
  const required = made.required ?? []
  return Object.entries(made.properties ?? {}).map(([name, property]) => ({
    name,
    in: place,
    required: place === 'path' || required.includes(name),
    description: texts[name] ?? '',
    schema: property as JsonSchema,
  }))
}

function optionsOf(io: Io) {
  return {
    io,
    unrepresentable: 'any',
    override: ({ jsonSchema }: { jsonSchema: JsonSchema }) => tidy(jsonSchema, io),
  } as const
}

/** Leaves out what says nothing to a reader: the bounds of whole numbers in JavaScript, the pattern of a named format. */
function tidy(schema: JsonSchema, io: Io): void {
  showAsDocumented(schema)
  simplifyNull(schema)
  if (schema.minimum === Number.MIN_SAFE_INTEGER) delete schema.minimum
  if (schema.maximum === Number.MAX_SAFE_INTEGER) delete schema.maximum
  if (schema.format !== undefined) delete schema.pattern
  if (typeof schema.propertyNames === 'object' && Object.keys(schema.propertyNames).join() === 'type') {
    delete schema.propertyNames
  }
  // An answer may come to have more fields; a request may not.
  if (io === 'output' && schema.additionalProperties === false) delete schema.additionalProperties
}

/** What comes as text and means something else is shown as what it means. */
function showAsDocumented(schema: JsonSchema): void {
  const { documentedAs, default: preset } = schema
  if (typeof documentedAs !== 'object') return
  for (const key of Object.keys(schema)) delete schema[key]
  Object.assign(schema, documentedAs, preset !== undefined && { default: preset })
}

/** `anyOf: [{type: "string", …}, {type: "null"}]` is `type: ["string", "null"]` in fewer words. */
function simplifyNull(schema: JsonSchema): void {
  const [first, second, ...more] = schema.anyOf ?? []
  if (typeof first !== 'object' || typeof second !== 'object' || more.length > 0) return
  const isNullable = second.type === 'null' && Object.keys(second).length === 1
  if (
    !isNullable ||
    typeof first.type !== 'string' ||
    first.enum !== undefined ||
    first.const !== undefined
  ) {
    return
  }
  delete schema.anyOf
  Object.assign(schema, first, { type: [first.type, 'null'] })
}

function textsOf(schemas: NamedSchemas, id: string): Readonly<Record<string, string>> {
  const named = schemas._idmap.get(id)
  return (named && schemas.get(named)?.texts) ?? {}
}

function withTexts(schema: JsonSchema, texts: Readonly<Record<string, string>>): JsonSchema {
  for (const [field, description] of Object.entries(texts)) {
    const property = schema.properties?.[field]
    if (typeof property === 'object')
      schema.properties = { ...schema.properties, [field]: { ...property, description } }
  }
  return schema
}
