import { hash } from 'node:crypto'

/** A key of one length for what has no id of its own, or one of any length. */
export function digestKey(...parts: readonly (string | Buffer)[]): string {
  // Each part is hashed first: where one ends and the next begins cannot be shifted.
  return hash('sha256', Buffer.concat(parts.map((part) => hash('sha256', part, 'buffer'))), 'base64url')
}
