/** `{{{ NAME }}}`, or a path of such names; anything else between three braces is left for the parser to refuse. */
const TRIPLE = /\{\{\{(\s*[A-Za-z_][\w.-]*\s*)\}\}\}/g

/**
 * Resend writes its variables in three braces. They read as Liquid's two here, so that a template made for it works:
 * escaped in HTML like any other value. The length stays, so that what the parser says of columns holds.
 */
export function withPlainBraces(source: string): string {
  return source.includes('{{{') ? source.replace(TRIPLE, '{{ $1 }}') : source
}
