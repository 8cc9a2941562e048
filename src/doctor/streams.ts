import type { Config } from '../config.ts'
import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { duration, listed } from './words.ts'

type StreamRow = {
  readonly name: string
  readonly route: string[]
  readonly missing: string[]
  readonly held: string[]
  readonly paused_s: number | null
  readonly needs_link: boolean
  readonly has_mailto: boolean
}

/** Whether the mail of each stream has somewhere to go. */
export async function checkStreams(
  { ask }: Reader,
  { publicUrl }: Pick<Config, 'publicUrl'>,
): Promise<Finding[]> {
  const streams = await ask<StreamRow>(`/* doctor.streams */
    select
      s.name, s.route,
      array(
        select r from unnest(s.route) r
        where not exists (select from mail.provider p where p.name = r)
          -- The first start makes this one.
          and (r <> 'default' or exists (select from mail.provider))
        order by r
      ) as missing,
      array(
        select p.name from mail.provider p cross join lateral mail.provider_hold(p.name) h
        where p.name = any (s.route) and h.until is not null
        order by p.name
      ) as held,
      extract(epoch from now() - s.paused_at)::double precision as paused_s,
      s.unsubscribe as needs_link, s.unsubscribe_mailto is not null as has_mailto
    from mail.stream s
    order by s.name`)
  const routes = streams.flatMap(routeOf)
  const links = streams.filter(({ needs_link: needs }) => needs).map(({ name }) => name)
  return [
    ...(routes.length > 0
      ? routes
      : [ok('routes', `every stream has a provider: ${listed(streams.map(({ name }) => name))}`)]),
    ...streams.flatMap(pauseOf),
    ...linkOf(
      links,
      publicUrl,
      streams.filter((each) => each.needs_link).every((each) => each.has_mailto),
    ),
  ]
}

function routeOf({ name, route, missing, held }: StreamRow): Finding[] {
  if (missing.length === route.length) {
    const found = `stream ${name} goes to ${listed(missing)}, and there is no such provider: its mail becomes dead letters`
    const advice = `update mail.stream set route = '{…}' where name = '${name}', or make the provider (docs/providers.md)`
    return [problem('routes', found, advice)]
  }
  if (missing.length > 0) {
    const found = `the route of ${name} names ${listed(missing)}, and there is no such provider`
    return [warning('routes', found, `update mail.stream set route = '{…}' where name = '${name}'`)]
  }
  if (held.length === route.length) {
    const found = `nothing may go to any provider of ${name} now (${listed(held)}): its mail waits`
    return [warning('routes', found, 'select * from mail.provider_status says why, and until when')]
  }
  return []
}

function pauseOf({ name, paused_s: paused }: StreamRow): Finding[] {
  if (paused === null) return []
  const found = `stream ${name} is paused for ${duration(paused)}: its mail waits`
  return [warning('paused', found, `select mail.resume('${name}', 'stream')`)]
}

function linkOf(streams: readonly string[], publicUrl: string | undefined, haveMailto: boolean): Finding[] {
  const name = 'links to unsubscribe'
  if (streams.length === 0) return []
  if (publicUrl !== undefined) return [ok(name, `lead to ${publicUrl}/u/`)]
  const found = haveMailto
    ? `${listed(streams)}: by mail only, since SLUICE_PUBLIC_URL is not set`
    : `${listed(streams)}: mail goes out without, since SLUICE_PUBLIC_URL is not set`
  const advice =
    'set it to where recipients reach this service (large mailbox providers ask for one click, RFC 8058)'
  return [warning(name, found, advice)]
}
