import type { Attachment, Message } from '../message/message.ts'
import { isStored } from '../message/message-attachments.ts'
import type { AttachmentAnswer } from './openapi/email-answers.ts'

/**
 * A body that was read as `message`, as its row in the intake holds it: the hash of each attachment in place of its
 * bytes, all else as it was given, so that it has the fingerprint of the same message with the bytes inside.
 */
export function withoutContents<Body>(body: Body, message: Message): Body {
  if (message.attachments === undefined) return body
  const given = body as Body & { readonly attachments: readonly object[] }
  const attachments = given.attachments.map((each, index) => named(each, message.attachments?.[index]))
  return { ...given, attachments }
}

function named(given: object, read: Attachment | undefined): object {
  if (read === undefined || !isStored(read)) return given
  const { content: _, ...rest } = given as { readonly content?: unknown }
  return { ...rest, sha256: read.sha256 }
}

/** What `GET /emails/:id` shows of each: never the bytes. */
export function presentAttachments(attachments: readonly Attachment[] | undefined): AttachmentAnswer[] {
  return (attachments ?? []).map((each) => ({
    filename: each.filename,
    content_type: each.content_type,
    content_id: each.content_id ?? null,
    // Unknown until it was fetched.
    size: isStored(each) ? each.size : null,
  }))
}
