import type { KeyScope } from '../../keys/keys.ts'
import { componentsOf, jsonSchemaOf, type Parameter, parametersOf } from './json-schema.ts'
import {
  ANSWER_HEADERS,
  ANSWER_SCHEMAS,
  type Answer,
  type Body,
  type Operation,
  type ProblemStatus,
  REQUEST_SCHEMAS,
  TAGS,
} from './operation.ts'
import { OPERATIONS } from './operations.ts'
import { problemName, problemResponses } from './problem-answers.ts'
import { type ApiRoute, nameOf } from './routes.ts'

const INTRODUCTION = `The REST API of Sluice, an email queue that needs nothing but Postgres. It has the shape of
[Resend](https://resend.com): the same paths, fields and error names, so that its SDKs work with another base URL.

Every request carries \`Authorization: Bearer <key>\`. Errors are \`{"statusCode", "name", "message"}\`; the message says
which field, why, and what would be right. Unknown fields are refused by name.`

/** The OpenAPI 3.1 document of these routes. */
export function buildDocument(routes: readonly ApiRoute[], version: string) {
  const byName = new Map(OPERATIONS.map((operation) => [nameOf(operation), operation]))
  const paths: Record<string, Record<string, object>> = {}
  for (const route of routes) {
    const operation = byName.get(nameOf(route))
    if (operation === undefined) continue
    const path = templateOf(route.path)
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: describe(operation, route.scopes) }
  }
  return {
    openapi: '3.1.1',
    info: {
      title: 'Sluice',
      version,
      description: INTRODUCTION,
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/', description: 'The service that this document comes from.' }],
    tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
    paths,
    components: {
      securitySchemes: {
        apiKey: {
          type: 'http',
          scheme: 'bearer',
          description: 'An API key: `sluice_…`, or that of `SLUICE_API_KEY`.',
        },
      },
      headers: ANSWER_HEADERS,
      responses: problemResponses(),
      schemas: { ...componentsOf(REQUEST_SCHEMAS, 'input'), ...componentsOf(ANSWER_SCHEMAS, 'output') },
    },
  }
}

/** `/emails/:id` as the document writes it; the form of an id is said by its schema. */
function templateOf(path: string): string {
  return path.replaceAll(/:(\w+)(?:\{(?:[^{}]|\{[^{}]*\})*\})?/g, '{$1}')
}

function describe(operation: Operation, scopes: readonly KeyScope[] | undefined): object {
  const { id, tag, summary, body, answer } = operation
  const parameters = parametersIn(operation)
  return {
    operationId: id,
    tags: [tag],
    summary,
    description: [operation.description, neededKey(scopes)].filter((text) => text !== undefined).join('\n\n'),
    // OpenAPI 3.1: the list of a bearer scheme names the roles that are needed; alternatives stand side by side.
    security: scopes === undefined ? [] : [...scopes, 'full'].map((scope) => ({ apiKey: [scope] })),
    ...(parameters.length > 0 && { parameters }),
    ...(body !== undefined && { requestBody: describeBody(body) }),
    responses: {
      [String(answer.status ?? 200)]: describeAnswer(answer),
      ...Object.fromEntries(
        problemsOf(operation, scopes).map((status) => [
          String(status),
          { $ref: `#/components/responses/${problemName(status)}` },
        ]),
      ),
    },
  }
}

function neededKey(scopes: readonly KeyScope[] | undefined): string {
  if (scopes === undefined) return 'Needs no API key.'
  return `Needs an API key of scope ${[...scopes, 'full'].map((scope) => `\`${scope}\``).join(' or ')}.`
}

function parametersIn({ params, query, headers }: Operation): Parameter[] {
  return [
    ...(params === undefined ? [] : parametersOf(params, 'path')),
    ...(query === undefined ? [] : parametersOf(query, 'query')),
    ...(headers === undefined ? [] : parametersOf(headers, 'header')),
  ]
}

function describeBody({ schema, type = 'application/json', example }: Body): object {
  return {
    required: true,
    content: { [type]: { schema: jsonSchemaOf(schema, REQUEST_SCHEMAS, 'input'), example } },
  }
}

function describeAnswer({ description, schema, example, otherForms = {}, headers = [] }: Answer): object {
  const json =
    schema === undefined
      ? {}
      : { 'application/json': { schema: jsonSchemaOf(schema, ANSWER_SCHEMAS, 'output'), example } }
  const others = Object.entries(otherForms).map(([type, form]) => [
    type,
    { schema: { type: 'string' }, example: form.example },
  ])
  return {
    description,
    ...(headers.length > 0 && {
      headers: Object.fromEntries(headers.map((name) => [name, { $ref: `#/components/headers/${name}` }])),
    }),
    content: { ...json, ...Object.fromEntries(others) },
  }
}

/** What any operation of its kind can answer, and what this one says of itself. */
function problemsOf(operation: Operation, scopes: readonly KeyScope[] | undefined): ProblemStatus[] {
  const { body, query, params, problems = [] } = operation
  const isJson = body !== undefined && body.type === undefined
  const found = new Set<ProblemStatus>(problems)
  if (scopes !== undefined) for (const status of [401, 429, 500, 503] as const) found.add(status)
  if (isJson) for (const status of [400, 413, 415, 422] as const) found.add(status)
  if (query !== undefined) found.add(422)
  // What is put is made when it is not there.
  if (params !== undefined && operation.method !== 'PUT') found.add(404)
  return [...found].sort((a, b) => a - b)
}
