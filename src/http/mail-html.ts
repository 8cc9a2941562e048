/**
 * For HTML that came in a mail or makes one: nothing is loaded, run, submitted or framed elsewhere. It can only be
 * looked at, in a sandboxed frame of our own pages.
 */
export const MAIL_HTML_POLICY =
  "sandbox; default-src 'none'; img-src data: cid:; style-src 'unsafe-inline'; base-uri 'none'; " +
  "form-action 'none'; frame-ancestors 'self'"
