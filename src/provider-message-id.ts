/**
 * A provider's id of a message in one form. Providers write the same id differently in the answer to a send, in
 * events and in headers: Mailgun with or without angle brackets; Amazon SES with `@email.amazonses.com` or
 * `@<region>.amazonses.com` behind it; SendGrid's `sg_message_id` is its `X-Message-Id` and the names of servers.
 */
export function providerRefOf(id: string): string {
  return id
    .trim()
    .replace(/^<(.*)>$/, '$1')
    .replace(/@[a-z0-9-]+\.amazonses\.com$/i, '')
    .replace(/\.(?:filter\d|recvd-|ismtpd|smtpd).*$/, '')
    .slice(0, 500)
}
