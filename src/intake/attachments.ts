import { keepAttachments, useAttachments } from '../attachment-store.ts'
import type { Transaction } from '../db/transaction.ts'
import { type Attachment, MAX_ATTACHMENTS_BYTES, type Message } from '../message/message.ts'
import { isStored, TOO_MUCH } from '../message/message-attachments.ts'
import { SEAL_BYTES } from '../sealer.ts'
import { type ExaminedRow, INVALID_ATTACHMENT, refuse } from './examine.ts'

/**
 * Stores the bytes that came inside rows, notes which messages use which, and learns the sizes of those that rows
 * only name. A row that names what is not stored, or too much of it, is refused. All of it is undone with the
 * mover's transaction.
 */
export async function settleAttachments(
  trx: Transaction,
  rows: readonly ExaminedRow[],
): Promise<readonly ExaminedRow[]> {
  const attached = rows.filter(({ attached }) => attached !== undefined)
  if (attached.length === 0) return rows
  await keepAttachments(
    trx,
    attached.flatMap(({ attached }) => attached?.contents ?? []),
    { isUsedAtOnce: true },
  )
  const uses = attached.flatMap(({ id, stream, attached }) =>
    (attached?.message.attachments ?? [])
      .filter(isStored)
      .map(({ sha256 }) => ({ messageId: id, stream, sha256 })),
  )
  const sizes = uses.length > 0 ? await useAttachments(trx, uses) : new Map<string, number>()
  return rows.map((row) => (row.attached === undefined ? row : complete(row, row.attached.message, sizes)))
}

function complete(row: ExaminedRow, message: Message, sizes: ReadonlyMap<string, number>): ExaminedRow {
  const attachments: Attachment[] = []
  let bytes = 0
  for (const [index, attachment] of (message.attachments ?? []).entries()) {
    if (!isStored(attachment)) {
      attachments.push(attachment)
      continue
    }
    const size = sizes.get(attachment.sha256)
    if (size === undefined) return refuse(row, INVALID_ATTACHMENT, describeMissing(index))
    attachments.push({ ...attachment, size })
    bytes += size - (attachment.key === undefined ? 0 : SEAL_BYTES)
  }
  if (bytes > MAX_ATTACHMENTS_BYTES) {
    return refuse(
      row,
      INVALID_ATTACHMENT,
      `Invalid \`attachments\`: ${TOO_MUCH}; use smaller ones, or links.`,
    )
  }
  const complete = { ...message, attachments }
  if (row.secret !== undefined) return { ...row, secret: complete }
  return { ...row, message: JSON.stringify(complete) }
}

function describeMissing(index: number): string {
  return `Invalid \`attachments[${index}].sha256\`: no attachment is stored under it; hand in the bytes with mail.attach within the day before, and use what it returns.`
}
