import type { Config } from '../config.ts'
import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { counted, duration, listed } from './words.ts'

const SOON_DAYS = 14
const GOOD_CHARS = 32

type KeyRow = { readonly name: string; readonly id: string; readonly left_s: number | null }

export async function checkKeys(
  { ask }: Reader,
  { apiKey, databaseUrl, isProduction }: Pick<Config, 'apiKey' | 'databaseUrl' | 'isProduction'>,
): Promise<Finding[]> {
  const name = 'keys'
  const keys = await ask<KeyRow>(`/* doctor.keys */
    select id, name, extract(epoch from expires_at - now())::double precision as left_s
    from mail.api_key
    where revoked_at is null and (expires_at is null or expires_at > now())
    order by expires_at, created_at`)
  const findings: Finding[] = []
  if (apiKey === undefined && keys.length === 0) {
    const makesOne = databaseUrl === undefined
    findings.push(
      makesOne
        ? ok(name, 'none yet: the first start makes one and shows it')
        : problem(
            name,
            'there is none: nobody can call the API',
            'npm start -- key create --name NAME, or set SLUICE_API_KEY',
          ),
    )
  } else {
    const bootstrap = apiKey === undefined ? '' : ', and the one of SLUICE_API_KEY'
    findings.push(ok(name, `${counted(keys.length, 'stored key')}${bootstrap}`))
  }
  if (isProduction && apiKey !== undefined && apiKey.length < GOOD_CHARS) {
    const advice = `one of ${GOOD_CHARS} random characters, such as from: openssl rand -base64 32`
    findings.push(warning(name, `SLUICE_API_KEY has ${apiKey.length} characters and full access`, advice))
  }
  const ending = keys.filter(({ left_s: left }) => left !== null && left < SOON_DAYS * 86_400)
  if (ending.length > 0) {
    const ends = ending.map(({ name: app, id, left_s: left }) => `${app} (${id}) in ${duration(left ?? 0)}`)
    findings.push(
      warning('keys that end', listed(ends), 'make the app a new one: npm start -- key create --name NAME'),
    )
  }
  return findings
}
