import type { WebhookKind } from '../../webhook-kinds.ts'
import { parseGeneric } from './generic.ts'
import { parseMailgun } from './mailgun.ts'
import { parsePostmark } from './postmark.ts'
import type { Parser } from './report.ts'
import { parseResend } from './resend.ts'
import { parseSendGrid } from './sendgrid.ts'
import { parseSes } from './ses.ts'

/** Each takes any bytes and never throws. */
export const PARSERS: Readonly<Record<WebhookKind, Parser>> = {
  ses: parseSes,
  sendgrid: parseSendGrid,
  mailgun: parseMailgun,
  postmark: parsePostmark,
  resend: parseResend,
  generic: parseGeneric,
}
