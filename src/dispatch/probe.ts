import { parseSmtpUrl } from '../smtp-url.ts'
import { type Certificate, checkApi } from './http/api-check.ts'
import { openApi, openTransport, type TransportSettings, TransportSettingsError } from './open-transport.ts'
import { SmtpSession } from './smtp-session.ts'
import type { SendOutcome } from './transport.ts'

/**
 * Whether a provider would take mail, found out without sending any: as far as the login of an SMTP session, or the
 * request of an HTTP API that only asks. For a person who set it up; dispatch finds out by sending.
 */
export type Probe = {
  readonly verdict: 'usable' | 'unclear' | 'refused'
  /** Why it is not usable, as in an outcome of a send; undefined when it is. */
  readonly code?: string
  readonly words: string
  /** What the other side showed, where the connection was encrypted. */
  readonly certificate?: Certificate | undefined
  readonly isEncrypted: boolean
}

const STEP_MS = 4_000

/** Never rejects. */
export async function probeTransport(
  settings: Omit<TransportSettings, 'maxConnections' | 'timeouts'>,
  limitMs: number,
): Promise<Probe> {
  try {
    const whole = { ...settings, maxConnections: 1 }
    // Says what is wrong with the settings exactly as a worker would.
    await openTransport(whole).close()
    const signal = AbortSignal.timeout(limitMs)
    return settings.transport === 'smtp'
      ? await probeSmtp(settings.credentials, signal)
      : await probeApi(whole, signal)
  } catch (error) {
    if (!(error instanceof TransportSettingsError)) throw error
    return { verdict: 'refused', code: error.code, words: error.message, isEncrypted: false }
  }
}

async function probeSmtp(url: string, signal: AbortSignal): Promise<Probe> {
  const target = {
    ...parseSmtpUrl(url),
    timeouts: { connectMs: STEP_MS, greetingMs: STEP_MS, socketMs: STEP_MS },
  }
  const session = new SmtpSession({ target, name: undefined }, () => undefined)
  const failure = await session.open(signal)
  const { certificate, isEncrypted } = session
  if (failure !== undefined) return { ...failureOf(failure), certificate, isEncrypted }
  session.quit()
  const login = target.auth === undefined ? 'without a login' : `logged in as ${target.auth.user}`
  return { verdict: 'usable', words: `${target.host}:${target.port}, ${login}`, certificate, isEncrypted }
}

function failureOf(outcome: SendOutcome): Pick<Probe, 'verdict' | 'code' | 'words'> {
  const { kind } = outcome
  const code = 'code' in outcome ? outcome.code : kind
  const words = kind === 'unreachable' || kind === 'unknown' ? outcome.reason : (outcome.reply ?? kind)
  return { verdict: 'refused', code, words }
}

async function probeApi(settings: TransportSettings, signal: AbortSignal): Promise<Probe> {
  if (settings.transport === 'smtp') throw new TypeError('smtp is no API')
  const { api, baseUrl } = openApi(settings.transport, settings)
  const isEncrypted = baseUrl.protocol === 'https:'
  const checked = await checkApi(api.check, baseUrl, signal)
  if (checked.kind === 'unreachable') {
    return {
      verdict: 'refused',
      code: checked.code,
      words: `${baseUrl.host}: ${checked.reason}`,
      isEncrypted,
    }
  }
  const { result, certificate } = checked
  const code = result.verdict === 'refused' ? { code: 'auth_failed' } : {}
  return {
    ...code,
    verdict: result.verdict,
    words: `${baseUrl.host}: ${result.words}`,
    certificate,
    isEncrypted,
  }
}
