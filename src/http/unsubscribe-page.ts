import { createHash } from 'node:crypto'
import { html, raw } from 'hono/html'

type Html = ReturnType<typeof html>

const STYLE = `
:root { color-scheme: light dark; }
body { margin: 0; font: 17px/1.5 system-ui, sans-serif; }
main { max-width: 32rem; margin: 12vh auto 0; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .75rem; }
button { font: inherit; padding: .6rem 1.4rem; border: 0; border-radius: .5rem; background: #0b6e8f; color: #fff; cursor: pointer; }
button:focus-visible { outline: 3px solid; outline-offset: 3px; }
`

/** No script, nothing from elsewhere, and no frame around it in which somebody could be made to click. */
export const UNSUBSCRIBE_PAGE_POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'`,
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ')

/** The form goes to the page's own address. */
export function askPage(address: string): Html {
  return page(
    'Unsubscribe',
    html`<p>Shall ${masked(address)} get no more mail of this kind?</p>
    <form method="post"><button name="List-Unsubscribe" value="One-Click">Unsubscribe</button></form>`,
  )
}

export function donePage(address: string): Html {
  return page(
    'You are unsubscribed',
    html`<p>${masked(address)} gets no more mail of this kind. What you ask for yourself, such as receipts, still arrives.</p>`,
  )
}

export function unknownPage(): Html {
  return page(
    'This link does not work',
    html`<p>It may have been cut off. Open it from the mail again, or copy it whole.</p>`,
  )
}

function page(title: string, body: Html): Html {
  return html`<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="robots" content="noindex, nofollow">
    <title>${title}</title>
    <style>${raw(STYLE)}</style>
  </head>
  <body>
    <main>
      <h1>${title}</h1>
      ${body}
    </main>
  </body>
</html>`
}

/** Enough to know one's own: the mail with the link may have been passed on. */
function masked(address: string): string {
  const at = address.lastIndexOf('@')
  return `${address.slice(0, 1)}…${address.slice(at)}`
}
