import { type Finding, ok, problem } from './finding.ts'
import type { Reader } from './reader.ts'

/** Whether mail may be sent at all. */
export async function checkHold({ ask }: Reader): Promise<Finding> {
  const name = 'sending'
  const [row] = await ask<{ held: string | null }>(`/* doctor.hold */ select mail.why_held() as held`)
  if (row === undefined || row.held === null) return ok(name, 'nothing holds it back')
  return problem(
    name,
    row.held,
    "select * from mail.held shows what may have gone out already; then mail.release('send'), ('set_aside') or ('discard')",
  )
}
