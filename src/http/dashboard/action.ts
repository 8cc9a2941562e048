import { ApiError } from '../../errors.ts'
import { asProblem } from '../control.ts'
import type { PageContext } from './frame.ts'
import { type Notice, redirectWith } from './notice.ts'

/**
 * Does what a form asks for and goes on to a page that says what came of it: also when it could not be done, so that
 * the fields of that page are at hand. What is our fault is no notice.
 */
export async function act(c: PageContext, path: string, work: () => Promise<Notice>): Promise<Response> {
  try {
    return redirectWith(c, path, await asProblem(work))
  } catch (error) {
    if (!(error instanceof ApiError) || error.status >= 500) throw error
    return redirectWith(c, path, { tone: 'failed', text: error.message })
  }
}
