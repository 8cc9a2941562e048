import { textOf } from '../read-json.ts'
import type { Mail } from './mail.ts'
import type { Told } from './mail-report.ts'
import { verdictOf } from './recipient-status.ts'
import { addressOf } from './report.ts'

/**
 * Bounces of no standard, where recipient and failure are certain by their form. Undefined for any other mail:
 * a text is never searched for what might be a bounce.
 */
export function readTextBounce(mail: Mail): readonly Told[] | undefined {
  const told = [readQsbmf(mail.text), readExim(mail), readExchange(mail.text)].find(
    (each) => each !== undefined && each.length > 0,
  )
  return told
}

/**
 * The qmail-send bounce message format (cr.yp.to/proto/qsbmf.txt): paragraphs, the first begins with "Hi. This is
 * the", each of a recipient with its address in brackets and a colon, and one that begins with a hyphen ends them.
 */
function readQsbmf(text: string): readonly Told[] | undefined {
  const paragraphs = text
    .replace(/^\s+/, '')
    .slice(0, MAX_TEXT_CHARS)
    .split(/\r?\n(?:[ \t]*\r?\n)+/)
  if (paragraphs[0]?.startsWith('Hi. This is the') !== true) return undefined
  const end = paragraphs.findIndex((paragraph) => paragraph.startsWith('-'))
  return paragraphs.slice(1, end === -1 ? undefined : end).flatMap((paragraph) => {
    const [, address, reason] = /^<([^<>\s]{3,320})>:[ \t]*\r?\n(.*)$/s.exec(paragraph) ?? []
    const recipient = addressOf(address)
    return recipient === undefined ? [] : [bounced(recipient, reason)]
  })
}

/** Exim names who failed in a header; its text, about each of them below the address, refines. */
function readExim(mail: Mail): readonly Told[] | undefined {
  const recipients = mail
    .headers('x-failed-recipients')
    .flatMap((value) => value.slice(0, MAX_TEXT_CHARS).split(','))
    .map(addressOf)
    .filter((recipient) => recipient !== undefined)
  if (recipients.length === 0) return undefined
  const lines = mail.text.slice(0, MAX_TEXT_CHARS).split(/\r?\n/)
  return recipients.map((recipient) => {
    const start = lines.findIndex((line) => line.trim().toLowerCase() === recipient.toLowerCase())
    return bounced(recipient, start === -1 ? undefined : paragraphAfter(lines, start))
  })
}

const EXCHANGE_SECTION = /^Diagnostic information for administrators:/m
const EXCHANGE_REPLY = /^(?:#|Remote Server returned |<[^<>]{1,200}#)/

/** Exchange's part for administrators: an address alone on a line, and below it the reply that begins with `#`. */
function readExchange(text: string): readonly Told[] | undefined {
  const [, section] = text.slice(0, MAX_TEXT_CHARS).split(EXCHANGE_SECTION)
  if (section === undefined) return undefined
  const lines = section.split(/\r?\n/).map((line) => line.trim())
  return lines.flatMap((line, index) => {
    const reply = lines[index + 1] ?? ''
    const recipient = EXCHANGE_REPLY.test(reply) ? addressOf(line) : undefined
    return recipient === undefined ? [] : [bounced(recipient, reply)]
  })
}

/** A bounce's own words come before the mail that it returns. */
const MAX_TEXT_CHARS = 65_536
const MAX_REASON_LINES = 12

function paragraphAfter(lines: readonly string[], start: number): string {
  const rest = lines.slice(start + 1, start + 1 + MAX_REASON_LINES)
  const end = rest.findIndex((line) => line.trim() === '')
  return (end === -1 ? rest : rest.slice(0, end)).map((line) => line.trim()).join(' ')
}

function bounced(recipient: string, text: string | undefined): Told {
  return { type: 'bounced', recipient, bounce: verdictOf(undefined, textOf(text)), detail: {} }
}
