/** The least urgent of what goes first; as mail.take_tokens has it. */
export const URGENT_PRIORITY = 3

/** Of a stream or a message, whose priorities go from 0, the most urgent, to 9. */
export function isUrgent({ priority }: { readonly priority: number }): boolean {
  return priority <= URGENT_PRIORITY
}
