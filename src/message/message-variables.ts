import { below, invalid, type Refusal, reservedKey } from './message-shape.ts'
import { isPrintableAscii, textFault } from './message-text.ts'

/** Far deeper than any template reads, and shallow enough for recursion here, in Postgres and in Liquid. */
const MAX_DEPTH = 20

/** Writing a number out only to measure it costs more than all other checks of it together. */
const NUMBER_BYTES = 8

type Walk = {
  /** The keys from the variables down to the value being looked at; spelt out only when something is wrong. */
  readonly path: (string | number)[]
  readonly maxBytes: number
  bytesLeft: number
}

/**
 * Checks that template variables are plain JSON that can be stored and rendered: no NUL, lone surrogate or infinite
 * number (`1e999` parses to one), no `__proto__` key, at most 20 levels, and at most `maxBytes` of compact JSON, with
 * escapes not counted and each number taken for 8 bytes. Throws a `Refusal` that names the first value that is not so.
 *
 * Only own keys are looked at; `constructor` and `prototype` are keys like any other. The byte count also ends the
 * walk of a cyclic or a shared structure, which can come from code but not from JSON.
 */
export function checkVariables(variables: Record<string, unknown>, maxBytes: number): void {
  checkContainer(variables, { path: [], maxBytes, bytesLeft: maxBytes })
}

function checkValue(value: unknown, walk: Walk): void {
  if (typeof value === 'string') {
    checkText(value, walk)
  } else if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw wrong(walk, `${value} is not a JSON number; use a finite one`)
    spend(NUMBER_BYTES, walk)
  } else if (typeof value === 'boolean' || value === null) {
    spend(5, walk)
  } else if (typeof value === 'object') {
    checkContainer(value, walk)
  } else {
    throw wrong(walk, `a value of type ${typeof value} is not JSON; use text, a number, a list or an object`)
  }
}

function checkContainer(value: object, walk: Walk): void {
  if (walk.path.length >= MAX_DEPTH) {
    throw wrong(walk, `it is nested more than ${MAX_DEPTH} levels deep; use a flatter shape`)
  }
  spend(3, walk)
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index += 1) checkMember(index, value[index], walk)
    return
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) {
    throw wrong(walk, 'an instance of a class is not JSON; use a plain object')
  }
  const members = value as Record<string, unknown>
  for (const key of Object.keys(members)) {
    if (key === '__proto__') throw reservedKey(fieldOf(walk))
    checkText(key, walk)
    checkMember(key, members[key], walk)
  }
}

function checkMember(key: string | number, value: unknown, walk: Walk): void {
  walk.path.push(key)
  checkValue(value, walk)
  walk.path.pop()
}

function checkText(value: string, walk: Walk): void {
  if (isPrintableAscii(value)) {
    spend(value.length + 3, walk)
    return
  }
  const fault = textFault(value)
  if (fault !== undefined) throw wrong(walk, `${fault}; use text without it`)
  spend(Buffer.byteLength(value) + 3, walk)
}

function spend(bytes: number, walk: Walk): void {
  walk.bytesLeft -= bytes
  if (walk.bytesLeft >= 0) return
  throw invalid(
    'template.variables',
    `they take more than ${walk.maxBytes} bytes as JSON; use fewer or shorter values`,
  )
}

function wrong(walk: Walk, rest: string): Refusal {
  return invalid(fieldOf(walk), rest)
}

function fieldOf(walk: Walk): string {
  return walk.path.reduce<string>(below, 'template.variables')
}
