import { z } from 'zod'
import { described, type Operation } from './operation.ts'

const token = described(z.object({ token: z.string() }), {
  token: 'From the link in a mail: the only proof that is asked for.',
})
const page = (text: string) => ({ 'text/html': { example: `<!doctype html><p>${text}</p>` } })

export const unsubscribeOperations: readonly Operation[] = [
  {
    method: 'GET',
    path: '/u/:token',
    id: 'askToUnsubscribe',
    tag: 'Unsubscribe',
    summary: 'The page that asks',
    description: 'Looking changes nothing, since scanners open every link of a mail.',
    params: token,
    answer: { description: 'A page with a button.', otherForms: page('Unsubscribe ann@example.com?') },
  },
  {
    method: 'POST',
    path: '/u/:token',
    id: 'unsubscribe',
    tag: 'Unsubscribe',
    summary: 'Unsubscribe',
    description: 'As RFC 8058 has it: one click, whatever the body; may be repeated.',
    params: token,
    answer: {
      description: 'The address is suppressed.',
      otherForms: page('ann@example.com is unsubscribed.'),
    },
    problems: [503],
  },
]
