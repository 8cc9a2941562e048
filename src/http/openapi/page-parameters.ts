import { z } from 'zod'

/** The parameters of a page, as the document shows them; each list reads its own. */
export function pageParameters(maxLimit: number, defaultLimit: number) {
  return {
    limit: z.int().min(1).max(maxLimit).default(defaultLimit),
    after: z.string().optional(),
    before: z.string().optional(),
  }
}
export const PAGE_TEXTS = {
  limit: 'How many at most.',
  after: 'The `id` of one of the list: the page that comes after it.',
  before: 'The `id` of one of the list: the page that comes before it. One of the two.',
}
