import type { DeclaredVariable } from '../../templates/template-content.ts'
import type { MissingVariables } from './mail-context.ts'
import { RenderStop } from './meters.ts'

/**
 * The variables of a message with the fallback of each that is absent or null. One without a fallback is missing,
 * whether or not it is used. Throws when a number is text and `isStrict`; otherwise it is rendered as given.
 */
export function withFallbacks(
  variables: Record<string, unknown>,
  declared: readonly DeclaredVariable[],
  missing: MissingVariables | undefined,
  isStrict: boolean,
): Record<string, unknown> {
  if (declared.length === 0) return variables
  const filled = { ...variables }
  for (const { key, type, fallback_value: fallback } of declared) {
    const given = Object.hasOwn(variables, key) ? variables[key] : undefined
    if (given === undefined || given === null) {
      if (fallback !== null && fallback !== undefined) filled[key] = fallback
      else if (given === undefined) missing?.add([key])
    } else if (isStrict && type === 'number' && !isNumeric(given)) {
      throw new RenderStop('template_failed', `the variable "${key}" is declared as a number and is none`)
    }
  }
  return filled
}

function isNumeric(value: unknown): boolean {
  if (typeof value === 'number') return true
  return typeof value === 'string' && value.trim() !== '' && Number.isFinite(Number(value))
}
