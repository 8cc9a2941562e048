import { Validator } from '@seriousme/openapi-schema-validator'
import { ANSWER_SCHEMAS, type Operation, REQUEST_SCHEMAS } from '../src/http/openapi/operation.ts'
import { OPERATIONS } from '../src/http/openapi/operations.ts'
import { type ApiRoute, nameOf } from '../src/http/openapi/routes.ts'

/** What is wrong between the routes and the operations that describe them; empty when all is well. */
export function routeFaults(
  routes: readonly ApiRoute[],
  operations: readonly Operation[] = OPERATIONS,
): string[] {
  const described = new Set(operations.map(nameOf))
  const known = new Set(routes.map(nameOf))
  return [
    ...[...known]
      .filter((name) => !described.has(name))
      .map(
        (name) =>
          `${name} is not in the document: describe it in the file of its resource in src/http/openapi/, and list a new file in operations.ts there`,
      ),
    ...[...described]
      .filter((name) => !known.has(name))
      .map((name) => `${name} is in src/http/openapi/ but no route of the app`),
    ...twice(operations.map(nameOf)).map((name) => `${name} is described twice`),
    ...twice(operations.map(({ id }) => id)).map((id) => `two operations are called ${id}`),
  ]
}

/** Examples that the schemas beside them do not take. */
export function exampleFaults(operations: readonly Operation[] = OPERATIONS): string[] {
  return operations.flatMap(({ id, body, answer }) => {
    const given = body?.schema.safeParse(body.example)
    const told = answer.schema?.safeParse(answer.example)
    return [
      ...(given?.success === false ? [`the body's example of ${id} is refused: ${given.error.message}`] : []),
      ...(told?.success === false
        ? [`the answer's example of ${id} does not fit: ${told.error.message}`]
        : []),
    ]
  })
}

type Json = Readonly<Record<string, unknown>>

/** What is wrong with the document itself: by the schema of OpenAPI 3.1, and by rules of ours. */
export async function documentFaults(document: Json): Promise<string[]> {
  const { valid, errors = [] } = await new Validator().validate(structuredClone(document))
  const schemaFaults = valid ? [] : [`not OpenAPI 3.1: ${JSON.stringify(errors)}`]
  return [...schemaFaults, ...referenceFaults(document), ...operationFaults(document), ...nameFaults()]
}

function referenceFaults(document: Json): string[] {
  const used = new Set<string>()
  const faults: string[] = []
  walk(document, (node) => {
    if (typeof node.$ref !== 'string') return
    used.add(node.$ref)
    if (resolve(document, node.$ref) === undefined) faults.push(`${node.$ref} leads nowhere`)
  })
  const schemas = Object.keys(resolve(document, '#/components/schemas') ?? {})
  for (const name of schemas) {
    if (!used.has(`#/components/schemas/${name}`)) faults.push(`the schema ${name} is not used`)
  }
  return faults
}

function operationFaults(document: Json): string[] {
  const paths = document.paths as Record<string, Record<string, Json>>
  return Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).flatMap(([method, operation]) =>
      faultsOf(path, operation).map((fault) => `${method.toUpperCase()} ${path} ${fault}`),
    ),
  )
}

function faultsOf(path: string, operation: Json): string[] {
  const { operationId, summary, tags, parameters = [], security } = operation
  const statuses = Object.keys(operation.responses as Json)
  const named = (parameters as { name: string; in: string; description: string }[]) ?? []
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
  const needsKey = (security as readonly unknown[]).length > 0
  return [
    ...(operationId ? [] : ['has no operationId']),
    ...(summary ? [] : ['has no summary']),
    ...((tags as readonly unknown[]).length === 1 ? [] : ['has not one tag']),
    ...(statuses.some((status) => status.startsWith('2')) ? [] : ['has no answer for success']),
    ...(statuses.some((status) => /^[45]/.test(status)) ? [] : ['has no answer for failure']),
    ...(needsKey && !statuses.includes('401') ? ['needs a key and has no 401'] : []),
    ...inPath
      .filter((name) => !named.some((each) => each.in === 'path' && each.name === name))
      .map((name) => `does not describe {${name}}`),
    ...named.filter(({ description }) => !description).map(({ name }) => `does not say what ${name} is`),
  ]
}

/** One name, one schema: what may be given and what comes are told apart. */
function nameFaults(): string[] {
  const names = [...REQUEST_SCHEMAS._idmap.keys(), ...ANSWER_SCHEMAS._idmap.keys()]
  return twice(names).map((name) => `two schemas are called ${name}`)
}

function walk(node: unknown, visit: (node: Json) => void): void {
  if (typeof node !== 'object' || node === null) return
  visit(node as Json)
  for (const each of Object.values(node)) walk(each, visit)
}

function resolve(document: Json, reference: string): Json | undefined {
  return reference
    .replace(/^#\//, '')
    .split('/')
    .reduce<unknown>((node, key) => (node as Json | undefined)?.[key], document) as Json | undefined
}

function twice(names: readonly string[]): string[] {
  return [...new Set(names.filter((name, index) => names.indexOf(name) !== index))]
}
