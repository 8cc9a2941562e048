import { z } from 'zod'

/** `limit` of a list, which comes as text. */
export function pageLimit(max: number) {
  const right = `use a whole number from 1 to ${max}`
  return z
    .string()
    .regex(/^[1-9]\d{0,3}$/, right)
    .transform(Number)
    .pipe(z.number().max(max, right))
    .meta({ documentedAs: { type: 'integer', minimum: 1, maximum: max } })
}
