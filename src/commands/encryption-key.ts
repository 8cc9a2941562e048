import { newEncryptionKey } from '../sealer.ts'

/** `encryption-key`: prints a new key for SLUICE_ENCRYPTION_KEYS, and nothing else, so that it can be captured. */
export function runEncryptionKey(): number {
  process.stdout.write(`${newEncryptionKey(new Date())}\n`)
  return 0
}
