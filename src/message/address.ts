import { domainToASCII } from 'node:url'
import type { Address } from './message.ts'
import { excerpt, hasEncodedWord, lineFault } from './message-text.ts'

export type ParsedAddress =
  | { readonly ok: true; readonly address: Address }
  /** `reason` is the rest of a sentence: why the text is refused, then what would be right. */
  | { readonly ok: false; readonly reason: string }

/** RFC 5321 section 4.5.3.1 allows a path of 256 octets, angle brackets included; the local part 64. */
const MAX_ADDRESS_CHARS = 254
const MAX_LOCAL_CHARS = 64
/** RFC 1035 section 2.3.4. */
const MAX_LABEL_CHARS = 63
const MAX_NAME_CHARS = 255
/** A name of which every character is escaped, an address, quotes and brackets fit well inside. */
const MAX_MAILBOX_CHARS = 1_000

/**
 * `"Quoted, Name" <spec>` or `Plain Name <spec>`. The characters a plain name may not hold are those that another
 * parser could take for the start of a second mailbox, a group or a route; inside quotes all are allowed.
 */
const NAMED_MAILBOX = /^(?:"((?:[^"\\]|\\.)*)"\s*|([^"<>,;:@\\]*))<([^<>]*)>$/
/** RFC 5322 section 3.2.3, ASCII only. */
const DOT_ATOM = /^[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*$/
const HOST_CHARACTERS = /^[A-Za-z0-9.\-\u0080-\u{10ffff}]*$/u
const ASCII = /^\p{ASCII}*$/u
/** What WHATWG URL parsing takes for the last part of an IPv4 address, hexadecimal included. */
const NUMERIC_LABEL = /^(?:[0-9]+|0x[0-9a-f]*)$/
/** Names that need no quotes. `=?` would read as an encoded word and `.` is obsolete syntax, so both are quoted. */
const UNQUOTED_NAME = /^[\p{L}\p{N}\p{M}_'-]+(?: [\p{L}\p{N}\p{M}_'-]+)*$/u

const USE_ADDRESS = 'use an address like `name@example.com` or `Name <name@example.com>`'

/**
 * Reads exactly one mailbox: `a@b.c`, `Name <a@b.c>` or `"Quoted, Name" <a@b.c>`. Never a list, a group, a comment,
 * a quoted local part or an address literal: lenient parsers disagree on those, and a parser that disagrees with
 * the one further down sends mail to somebody else. Host names without a dot are accepted, for relays in development.
 *
 * The domain comes back in lower case and in its ASCII form (IDNA, RFC 5891).
 */
export function parseAddress(text: string): ParsedAddress {
  if (text.length > MAX_MAILBOX_CHARS) {
    return refused(`it is longer than ${MAX_MAILBOX_CHARS} characters; ${USE_ADDRESS}`)
  }
  // Before trimming, so that a line break at either end is refused and not silently dropped.
  const fault = lineFault(text)
  if (fault !== undefined) return refused(`${fault}; ${USE_ADDRESS}`)
  const mailbox = text.trim()
  if (mailbox === '') return refused(`it is empty; ${USE_ADDRESS}`)
  if (!mailbox.endsWith('>')) return readSpec(mailbox, undefined)

  const parts = NAMED_MAILBOX.exec(mailbox)
  if (parts === null) return refused(nameReason(mailbox))
  const [, quoted, plain = '', spec = ''] = parts
  const name = (quoted === undefined ? plain : quoted.replace(/\\(.)/g, '$1')).trim()
  if (name.length > MAX_NAME_CHARS) {
    return refused(`its display name is longer than ${MAX_NAME_CHARS} characters; use a shorter name`)
  }
  return readSpec(spec, name === '' ? undefined : name)
}

/** The address as it stands in a header (RFC 5322), the name in quotes where it needs them; not yet MIME-encoded. */
export function formatAddress({ address, name }: Address): string {
  if (name === undefined || name === '') return address
  const phrase = UNQUOTED_NAME.test(name) ? name : `"${name.replace(/["\\]/g, '\\$&')}"`
  return `${phrase} <${address}>`
}

function refused(reason: string): ParsedAddress {
  return { ok: false, reason }
}

function readSpec(spec: string, name: string | undefined): ParsedAddress {
  if (spec === '') return refused(`it has nothing between \`<\` and \`>\`; ${USE_ADDRESS}`)
  const at = spec.lastIndexOf('@')
  const local = spec.slice(0, Math.max(at, 0))
  const domain = spec.slice(at + 1)
  const fault = (at < 0 ? 'has no `@`' : localFault(local)) ?? domainFault(domain)
  if (fault !== undefined) return refused(`\`${excerpt(spec)}\` ${fault}; ${USE_ADDRESS}`)

  const isAscii = ASCII.test(domain)
  const host = isAscii ? domain.toLowerCase() : domainToASCII(domain)
  const asciiFault = hostFault(host) ?? (isAscii ? undefined : domainFault(host))
  if (asciiFault !== undefined) return refused(`\`${excerpt(spec)}\` ${asciiFault}; ${USE_ADDRESS}`)
  const address = `${local}@${host}`
  if (address.length > MAX_ADDRESS_CHARS) {
    return refused(
      `\`${excerpt(spec)}\` is longer than ${MAX_ADDRESS_CHARS} characters; use a shorter address`,
    )
  }
  // A name that only repeats the address says nothing, and other parsers drop it.
  return { ok: true, address: name === undefined || name === address ? { address } : { address, name } }
}

/** An encoded word is made of characters that are allowed, and becomes another address where it is decoded. */
function localFault(local: string): string | undefined {
  if (local.length > MAX_LOCAL_CHARS) return `has more than ${MAX_LOCAL_CHARS} characters before the \`@\``
  if (hasEncodedWord(local)) return 'has an encoded word before the `@`, which RFC 2047 forbids there'
  if (DOT_ATOM.test(local)) return undefined
  if (local === '') return 'has nothing before the `@`'
  if (local.startsWith('"')) return 'has a quoted part before the `@`, which is not supported'
  if (/[\s,;]/.test(local)) return 'is not a single address; give several as a list of strings'
  if (local.includes('@')) return 'has more than one `@`'
  if (!ASCII.test(local)) return 'has a character outside ASCII before the `@`, which is not supported'
  if (/^\.|\.\.|\.$/.test(local)) return 'has a misplaced dot before the `@`'
  return 'has a character that is not allowed before the `@`'
}

/**
 * The characters are checked before any conversion to ASCII, because the converter is a URL host parser: it cuts
 * `a/b` to `a`, undoes percent signs and turns `0x7f.1` into `127.0.0.1`.
 */
function domainFault(domain: string): string | undefined {
  if (domain === '') return 'has nothing after the `@`'
  if (domain.startsWith('[')) return 'has an address literal for a domain, which is not supported'
  if (!HOST_CHARACTERS.test(domain)) return 'has a character that is not allowed in a domain'
  for (const label of domain.split('.')) {
    if (label === '') return 'has a misplaced dot in its domain'
    if (label.startsWith('-')) return 'has a domain label that starts with a hyphen'
    if (label.endsWith('-')) return 'has a domain label that ends with a hyphen'
    if (label.length > MAX_LABEL_CHARS) return `has a domain label longer than ${MAX_LABEL_CHARS} characters`
  }
  return undefined
}

/** What can be said of a domain only in its ASCII form; the converter answers with an empty string for bad names. */
function hostFault(host: string): string | undefined {
  if (host === '') return 'has a domain that is not a valid internationalised name'
  if (NUMERIC_LABEL.test(host.slice(host.lastIndexOf('.') + 1))) return 'has an IP address for a domain'
  return undefined
}

/** Why `... <...>` is not a name and an address; only called once it is known not to be. */
function nameReason(mailbox: string): string {
  const shown = `\`${excerpt(mailbox)}\``
  if (!mailbox.includes('<')) return `${shown} has a \`>\` without a \`<\`; ${USE_ADDRESS}`
  if (/<.*</.test(mailbox)) return `${shown} has more than one \`<\`; ${USE_ADDRESS}`
  if (mailbox.includes('"')) return `${shown} has a misplaced double quote; use \`"Name" <name@example.com>\``
  return `${shown} has one of \`, ; : @ \\\` in its name outside quotes; use \`"Name" <name@example.com>\`, and a list of strings for several addresses`
}
