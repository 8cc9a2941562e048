import { ApiError } from '../errors.ts'
import type { Caller } from '../keys/keys.ts'
import type { Message } from '../message/message.ts'

/** The sender is absent where a template supplies it. */
type Sent = { readonly from?: Message['from'] | undefined }

/**
 * Throws unless this key may send this message in this stream. Call it before the stream is looked up: a key that is
 * bound to streams learns nothing of the others, not even which exist.
 */
export function checkMay(caller: Caller, message: Sent, stream: string): void {
  checkStream(caller, stream)
  checkSender(caller, message)
}

function checkStream({ streams }: Caller, stream: string): void {
  if (streams === null || streams.includes(stream)) return
  throw new ApiError(
    'restricted_api_key',
    `This API key may not send in the stream \`${stream}\`; set \`stream\` to ${oneOf(streams)}.`,
  )
}

function checkSender({ sender_domains: domains }: Caller, { from }: Sent): void {
  if (domains === null) return
  if (from === undefined) {
    throw new ApiError(
      'missing_required_field',
      `Missing \`from\`: this API key may only send from ${oneOf(domains)}, so the sender cannot be left to the template.`,
    )
  }
  const domain = from.address.slice(from.address.lastIndexOf('@') + 1)
  if (domains.includes(domain)) return
  throw new ApiError(
    'validation_error',
    `Invalid \`from\`: this API key may not send from \`${domain}\`; use an address at ${oneOf(domains)}.`,
    { status: 403 },
  )
}

function oneOf(names: readonly string[]): string {
  return names.map((name) => `\`${name}\``).join(' or ')
}
