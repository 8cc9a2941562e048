import type { Stream } from '../catalog.ts'
import type { UnsubscribeLinks } from '../unsubscribe-links.ts'
import { showsWords } from './postal-address.ts'
import type { AcceptedMessage } from './queries.ts'

/** What a stream lets a message offer to its recipient. */
export type Offer = {
  /** Only for a message with one recipient: several would unsubscribe one another. */
  readonly url: string | undefined
  /** List-Unsubscribe, unless the message brings its own. */
  readonly header: string | null
}

export const NO_OFFER: Offer = { url: undefined, header: null }

const HEADER = 'list-unsubscribe'

export function offerOf(stream: Stream, accepted: AcceptedMessage, links: UnsubscribeLinks): Offer {
  const { isOffered, mailto } = stream.unsubscribe
  if (!isOffered) return NO_OFFER
  const [address, ...others] = recipientsOf(accepted)
  const url =
    address === undefined || others.length > 0
      ? undefined
      : links.urlOf({ messageId: accepted.id, stream: stream.name, address })
  const ways = [url, mailto === null ? undefined : mailtoUrl(mailto)].filter((way) => way !== undefined)
  const isOurs = ways.length > 0 && !bringsHeader(accepted)
  return { url, header: isOurs ? ways.map((way) => `<${way}>`).join(', ') : null }
}

/** What templates of this stream can use; these win over the message's own of the same names. */
export function streamVariables({ postalAddress }: Stream, { url }: Offer): Readonly<Record<string, string>> {
  return {
    ...(url !== undefined && { unsubscribe_url: url }),
    ...(postalAddress.text !== null && { postal_address: postalAddress.text }),
  }
}

export type Bodies = { readonly html: string | undefined; readonly text: string | undefined }

/** Why a message may not go out: it lacks what its stream requires. `bodies` are those that somebody wrote. */
export function lackOf(
  stream: Stream,
  accepted: AcceptedMessage,
  offer: Offer,
  bodies: Bodies,
): { readonly code: string; readonly reason: string } | undefined {
  if (stream.unsubscribe.isRequired && !hasWayOut(accepted, offer, bodies)) {
    return { code: 'no_unsubscribe', reason: describeNoWayOut(stream, accepted) }
  }
  const { text: address, isRequired } = stream.postalAddress
  if (isRequired && address !== null && !showsWords(bodies, address)) {
    const reason = `Stream ${stream.name} requires its postal address in every body of a message. Write {{ postal_address }} in the template, in the html and in the text where it has both.`
    return { code: 'no_postal_address', reason }
  }
  return undefined
}

/** A header, or a link of the message's own that one of its bodies shows. */
function hasWayOut(accepted: AcceptedMessage, { header }: Offer, { html, text }: Bodies): boolean {
  if (header !== null || bringsHeader(accepted)) return true
  const own = accepted.message.template?.variables.unsubscribe_url
  if (typeof own !== 'string' || !/^(?:https?:\/\/|mailto:)./i.test(own)) return false
  const shown = [own, own.replaceAll('&', '&amp;')]
  return [html, text].some((body) => shown.some((link) => body?.includes(link)))
}

function describeNoWayOut({ name, unsubscribe }: Stream, accepted: AcceptedMessage): string {
  const demand = `Stream ${name} requires a way to unsubscribe, and this message has none:`
  const remedy = 'or give the message a List-Unsubscribe header.'
  if (!unsubscribe.isOffered) {
    return `${demand} the stream adds no link. Set its column unsubscribe, ${remedy}`
  }
  if (recipientsOf(accepted).length > 1) {
    return `${demand} a link is for one recipient, and it has several. Send each their own message, ${remedy}`
  }
  return `${demand} SLUICE_PUBLIC_URL is not set. Set it for every worker, ${remedy}`
}

function bringsHeader({ message }: AcceptedMessage): boolean {
  return Object.keys(message.headers).some((name) => name.toLowerCase() === HEADER)
}

function recipientsOf({ message }: AcceptedMessage): string[] {
  const everybody = [...message.to, ...message.cc, ...message.bcc]
  return [...new Set(everybody.map(({ address }) => address.toLowerCase()))]
}

/** RFC 6068: in the local part much has a meaning of its own. */
function mailtoUrl(address: string): string {
  const at = address.lastIndexOf('@')
  return `mailto:${encodeURIComponent(address.slice(0, at))}${address.slice(at)}?subject=unsubscribe`
}
