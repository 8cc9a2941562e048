import type { RenderFailure, RenderFailureCode } from './contract.ts'

/** What whoever reads the dead letter can do about it. */
const REMEDIES: Readonly<Record<RenderFailureCode, string>> = {
  template_syntax: 'Correct the template, publish it, then retry.',
  template_too_large: 'Shorten the template or those it uses, publish it, then retry.',
  template_failed: 'Correct the template and publish it, then retry; or send anew with other variables.',
  template_missing_variable:
    'Send anew with them; or give them a fallback, publish the template, then retry.',
  template_partial_missing: 'Publish it, then retry.',
  template_timeout: 'Let the template do less, such as fewer loops in loops; publish it, then retry.',
  template_memory: 'Let the template make less of its data, or send anew with less; then retry.',
  output_too_large: 'Let the template write less, or send anew with less data; then retry.',
  output_invalid: 'Take it out of the variables and send anew, or correct the template, then retry.',
  variables_too_large: 'Send anew with fewer or shorter variables.',
  variables_invalid: 'Send anew with a JSON object as variables.',
}

/** Why a message could not be rendered, and what to do about it. */
export function explained({ code, reason }: RenderFailure): string {
  return `${reason.replace(/\.$/, '')}. ${REMEDIES[code]}`
}
