import { composeMail, type OutgoingMail } from './compose.ts'
import { ComposeError } from './mime/compose-error.ts'
import type { MailContent } from './mime/mail-content.ts'
import type { SendOutcome } from './transport.ts'

/** A mail put together, or the outcome of one that cannot be: it would fail the same way on every attempt. */
export type Composition =
  | { readonly ok: true; readonly content: MailContent }
  | { readonly ok: false; readonly outcome: SendOutcome }

export function composed(mail: OutgoingMail): Composition {
  try {
    return { ok: true, content: composeMail(mail) }
  } catch (error) {
    if (!(error instanceof ComposeError)) throw error
    return { ok: false, outcome: { kind: 'refused', code: 'malformed_message', reply: error.message } }
  }
}
