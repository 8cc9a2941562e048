import { createHash } from 'node:crypto'

/** The one stylesheet of the inbox pages; light and dark follow the reader's system. */
export const INBOX_STYLE = `
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --line: #e3e6eb; --text: #1b2330; --soft: #647084; --accent: #0b6e8f;
  --tint: #e8f4f8; --danger: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1a2028; --line: #2b333e; --text: #e5e9ef; --soft: #95a1b3; --accent: #5cc3e4;
    --tint: #1c313b; --danger: #ff8a80;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
a { color: var(--accent); }
header, main { max-width: 62rem; margin: 0 auto; padding: 0 1rem; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .6rem 1rem; padding-block: 1.1rem .9rem; }
header h1 { margin: 0; font-size: 1.25rem; letter-spacing: -.01em; }
header h1 a { color: inherit; text-decoration: none; }
header .count { color: var(--soft); margin-right: auto; }
input, button, .button, summary {
  font: inherit; padding: .35rem .75rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); color: var(--text);
}
input[type=search] { width: min(100%, 17rem); }
button, .button, summary { cursor: pointer; text-decoration: none; white-space: nowrap; }
button:hover, .button:hover, summary:hover { border-color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.live::before { content: ''; display: inline-block; width: .5rem; height: .5rem; margin-right: .45rem;
  border-radius: 50%; background: #2fa36b; }
details.clear { position: relative; }
details.clear summary { list-style: none; }
details.clear summary::-webkit-details-marker { display: none; }
details.clear form { position: absolute; right: 0; top: calc(100% + .35rem); z-index: 1; }
.danger { color: var(--danger); border-color: var(--danger); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; overflow: hidden; }
.mails { list-style: none; margin: 0; padding: 0; }
.mails li + li { border-top: 1px solid var(--line); }
.mails a { display: grid; grid-template-columns: minmax(0, 14rem) minmax(0, 1fr) auto; gap: .1rem 1.25rem;
  padding: .7rem 1rem; color: inherit; text-decoration: none; }
.mails a:hover, .mails a:focus-visible { background: var(--tint); }
.mails .subject { font-weight: 600; grid-row: 1; grid-column: 2; text-align: left; }
.mails .from { color: var(--soft); grid-row: 2; grid-column: 2; }
.mails .to { grid-row: 1; grid-column: 1; }
.mails .size { grid-row: 2; grid-column: 3; color: var(--soft); text-align: right; }
.mails time { grid-row: 1; grid-column: 3; color: var(--soft); text-align: right; }
.mails .more { grid-row: 2; grid-column: 1; color: var(--soft); }
.mails span, .mails time { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.mails .size, .mails .from, .mails .more, .mails time { font-size: .87rem; }
.empty { padding: 3.5rem 1.25rem; text-align: center; color: var(--soft); }
.empty strong { display: block; color: var(--text); font-size: 1.1rem; margin-bottom: .3rem; }
.pages { display: flex; gap: .6rem; padding: 1rem 0 2rem; }
.top { padding: 1rem 1.15rem; }
.top h2 { margin: 0 0 .7rem; font-size: 1.3rem; line-height: 1.3; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1.1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; gap: .25rem; padding: 0 .9rem; border-block: 1px solid var(--line); overflow-x: auto; }
nav a { padding: .55rem .7rem; color: var(--soft); text-decoration: none; border-bottom: 2px solid transparent; }
nav a:hover { color: var(--text); }
nav a[aria-current] { color: var(--accent); border-color: var(--accent); font-weight: 600; }
iframe { display: block; width: 100%; height: max(24rem, 68vh); border: 0; background: #fff; color-scheme: light; }
pre { margin: 0; padding: 1.1rem 1.15rem; white-space: pre-wrap; overflow-wrap: anywhere; }
pre, code { font: .87rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.headers { padding: 1.1rem 1.15rem; font-size: .9rem; }
.note { margin: 0; padding: .8rem 1.15rem; color: var(--soft); }
section { margin: 1rem 0 0; padding: .9rem 1.15rem; }
section h3 { margin: 0 0 .4rem; font-size: .95rem; }
section ul { margin: 0; padding-left: 1.1rem; overflow-wrap: anywhere; }
main { padding-bottom: 2rem; }
@media (max-width: 40rem) {
  .mails a { grid-template-columns: minmax(0, 1fr) auto; }
  .mails .subject { grid-row: 1; grid-column: 1; }
  .mails .to { grid-row: 2; grid-column: 1; }
  .mails .from { grid-row: 3; grid-column: 1; }
  .mails time { grid-row: 1; grid-column: 2; }
  .mails .size { grid-row: 2; grid-column: 2; }
  .mails .more { display: none; }
  header form { flex: 1 1 100%; order: 9; }
  input[type=search] { width: 100%; }
}
`

/**
 * What an inbox page may load: this stylesheet, and frames of its own. No script at all, so a hole in the
 * escaping would still run nothing.
 */
export const INBOX_PAGE_POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(INBOX_STYLE).digest('base64')}'`,
  "frame-src 'self'",
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ')
