import type { BounceAddresses } from '../../bounce-address.ts'
import type { WebhookKind } from '../../webhook-kinds.ts'
import { parseGeneric } from './generic.ts'
import { parseMailReport } from './mail-report.ts'
import { parseMailgun } from './mailgun.ts'
import { parsePostmark } from './postmark.ts'
import { type Parser, type RawFeedback, type Report, reportOf } from './report.ts'
import { parseResend } from './resend.ts'
import { parseSendGrid } from './sendgrid.ts'
import { parseSes } from './ses.ts'

/** Each takes any bytes and never throws. */
export const PARSERS: Readonly<Record<Exclude<WebhookKind, 'dsn'>, Parser>> = {
  ses: parseSes,
  sendgrid: parseSendGrid,
  mailgun: parseMailgun,
  postmark: parsePostmark,
  resend: parseResend,
  generic: parseGeneric,
}

/** What a delivery of this kind says; never rejects, whatever the kind and the bytes. */
export async function readReport(
  kind: string,
  raw: RawFeedback & { readonly requiresBounceAddress: boolean },
  addresses: BounceAddresses,
): Promise<Report> {
  const { requiresBounceAddress } = raw
  if (kind === 'dsn') return parseMailReport(raw, { addresses, requiresBounceAddress })
  const parse = Object.hasOwn(PARSERS, kind) ? PARSERS[kind as keyof typeof PARSERS] : undefined
  return parse?.(raw) ?? reportOf([{ fault: `nothing here reads the kind ${kind}` }])
}
