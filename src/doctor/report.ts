import type { Finding, Verdict } from './finding.ts'

const MARKS: Readonly<Record<Verdict, string>> = { ok: '✓', warning: '!', problem: '✗', skipped: '-' }
const COLOURS: Readonly<Record<Verdict, number>> = { ok: 32, warning: 33, problem: 31, skipped: 90 }

/** A line for each finding, what to do below it, and at the end how many there were of each kind. */
export function reportText(
  findings: readonly Finding[],
  { isColoured }: { readonly isColoured: boolean },
): string {
  const width = Math.max(0, ...findings.map(({ name }) => name.length))
  const lines = findings.flatMap(({ name, verdict, found, advice }) => {
    const mark = `${MARKS[verdict]} ${verdict.padEnd('problem'.length)}`
    const coloured = isColoured ? `\u001b[${COLOURS[verdict]}m${mark}\u001b[0m` : mark
    const line = `${coloured}  ${name.padEnd(width)}  ${oneLine(found)}`
    const indent = ' '.repeat(mark.length + width + 4)
    return advice === undefined ? [line] : [line, `${indent}→ ${oneLine(advice)}`]
  })
  return `${lines.join('\n')}\n\n${summary(findings)}\n`
}

/** Names and replies of others may hold anything: they stay within their line, and move no cursor. */
function oneLine(text: string): string {
  return text.replaceAll(/\p{Cc}+/gu, ' ')
}

function summary(findings: readonly Finding[]): string {
  const count = (verdict: Verdict) => findings.filter((each) => each.verdict === verdict).length
  const counts = [
    `${count('ok')} ok`,
    `${count('warning')} warnings`,
    `${count('problem')} problems`,
    `${count('skipped')} skipped`,
  ]
  return counts.map((text) => (text.startsWith('1 ') ? text.replace(/s$/, '') : text)).join(', ')
}
