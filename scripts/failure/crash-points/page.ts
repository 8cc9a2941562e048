import { CRASH_POINTS, type CrashPoint } from '../../../src/crash-point.ts'
import { CASES } from './cases.ts'

const INTRODUCTION = `# Crash points

Every place where a process can die between a side effect and its commit, or between a commit and what follows from it,
has a name in \`src/crash-point.ts\`. In the failure run \`crash-points\` a process is killed with SIGKILL at each of them while it
carries one message, or whatever goes through there; then another process goes on, and whoever heard no answer repeats
what they asked. What follows is exactly this:

\`\`\`console
npm run test:failure -- crash-points
\`\`\`

A message came twice only where its relay or provider had the whole of it and no commit knew, and only with
\`on_unknown = retry\`; with \`hold\` it is \`unknown\` there, and nobody sends it again by himself. A repeat under the same
\`Idempotency-Key\` got the same id every time. The timeline of the message stands in brackets.

The names are a Node diagnostics channel that nothing of the product listens to: reaching one costs a comparison, and no
setting makes a process die there.
`

/** docs/crash-points.md. */
export function crashPointsPage(): string {
  const rows = Object.entries(CASES).flatMap(([point, cases]) =>
    cases.map(({ variant, follows }) => {
      const with_ = variant === '' ? '' : ` (${variant})`
      return `| \`${point}\` | ${CRASH_POINTS[point as CrashPoint]}${with_} | ${follows} |`
    }),
  )
  return `${INTRODUCTION}\n| point | the process dies when | what follows |\n|---|---|---|\n${rows.join('\n')}\n`
}
