import { type Finding, ok, warning } from './finding.ts'
import type { Reader } from './reader.ts'

/** Crashes that took what was answered `buffered`, over the last week. */
export async function checkIntake({ ask }: Reader): Promise<Finding> {
  const name = 'intake losses'
  const [lost] = await ask<{
    times: number
    at_least: string
    at_most: string
    latest: Date | null
  }>(`/* doctor.losses */
    select count(*)::integer as times, coalesce(sum(at_least), 0)::text as at_least, coalesce(sum(at_most), 0)::text as at_most,
      max(noticed_at) as latest
    from mail.intake_loss
    where noticed_at > now() - interval '7 days' and at_most > 0`)
  if (lost === undefined || lost.times === 0) return ok(name, 'none in the last seven days')
  const found = `${lost.at_least} to ${lost.at_most} buffered messages in the last seven days, the latest on ${lost.latest?.toISOString()}`
  const advice =
    'find out why Postgres crashed (its log; the OOM killer); let apps that must not lose mail take durable answers'
  return warning(name, found, advice)
}
