/** A relay, as `parseSmtpUrl` reads it. */
export type SmtpTarget = {
  readonly host: string
  readonly port: number
  readonly secure: boolean
  readonly tls: 'opportunistic' | 'required' | 'none'
  readonly verify: boolean
  readonly auth?: { readonly user: string; readonly pass: string }
}

/**
 * Reads `smtp(s)://user:pass@host:port?tls=...&tls_verify=...`. User and password are percent-encoded.
 *
 * - `smtps://` speaks TLS from the first byte (port 465); `smtp://` starts in the clear (port 587).
 * - `tls=opportunistic` (the default) uses STARTTLS where it is offered, and never sends a password without it;
 *   `tls=required` sends nothing without it; `tls=none` never uses it, and sends even the password in the clear.
 * - `tls_verify=false` accepts any certificate.
 *
 * @throws Error that says what is wrong, without the password
 */
export function parseSmtpUrl(text: string): SmtpTarget {
  const url = URL.parse(text)
  if (url === null || !['smtp:', 'smtps:'].includes(url.protocol) || url.hostname === '') {
    throw new Error(
      'The SMTP URL must look like smtp://user:password@host:587, with special characters percent-encoded',
    )
  }
  const secure = url.protocol === 'smtps:'
  const tls = url.searchParams.get('tls') ?? (secure ? 'required' : 'opportunistic')
  if (tls !== 'opportunistic' && tls !== 'required' && tls !== 'none') {
    throw new Error('The SMTP URL parameter `tls` must be opportunistic, required or none')
  }
  if (secure && tls !== 'required')
    throw new Error('An smtps:// URL always uses TLS: remove `tls` or use smtp://')
  const verify = url.searchParams.get('tls_verify') ?? 'true'
  if (verify !== 'true' && verify !== 'false') {
    throw new Error('The SMTP URL parameter `tls_verify` must be true or false')
  }
  for (const name of url.searchParams.keys()) {
    if (name !== 'tls' && name !== 'tls_verify')
      throw new Error(`The SMTP URL parameter \`${name}\` is not known`)
  }
  const auth =
    url.username === '' ? {} : { auth: { user: decoded(url.username), pass: decoded(url.password) } }
  const host = decoded(url.hostname).replace(/^\[(.*)\]$/, '$1')
  return {
    host,
    port: Number(url.port) || (secure ? 465 : 587),
    secure,
    tls,
    verify: verify === 'true',
    ...auth,
  }
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch (cause) {
    throw new Error(
      'The SMTP URL has a `%` that is not part of a percent-encoded character; write it as %25',
      { cause },
    )
  }
}
