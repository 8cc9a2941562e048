export const VERDICTS = ['ok', 'warning', 'problem', 'skipped'] as const
export type Verdict = (typeof VERDICTS)[number]

/** What one check found. */
export type Finding = {
  /** What was looked at, in a few words; the same from run to run. */
  readonly name: string
  readonly verdict: Verdict
  readonly found: string
  /** What to do about it; on warnings and problems. */
  readonly advice?: string
}

export function ok(name: string, found: string): Finding {
  return { name, verdict: 'ok', found }
}

/** Works, and will not for ever, or not as a person would expect. */
export function warning(name: string, found: string, advice: string): Finding {
  return { name, verdict: 'warning', found, advice }
}

/** Mail does not flow, or could be lost, until this is put right. */
export function problem(name: string, found: string, advice: string): Finding {
  return { name, verdict: 'problem', found, advice }
}

export function skipped(name: string, why: string): Finding {
  return { name, verdict: 'skipped', found: why }
}
