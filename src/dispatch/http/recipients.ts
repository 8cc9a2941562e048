import type { Address } from '../../message/message.ts'
import type { Outgoing } from '../transport.ts'

/** Who gets a mail, as APIs want to know it that write the headers themselves. */
export type Addressing = {
  readonly to: readonly Address[]
  readonly cc: readonly Address[]
  readonly bcc: readonly Address[]
}

/** The recipients of the envelope under the headers that show them; those shown nowhere are Bcc. */
export function addressingOf({ mail, envelope }: Outgoing): Addressing {
  const left = new Map(envelope.to.map((address) => [address.toLowerCase(), address]))
  const take = (list: readonly Address[]) => list.filter(({ address }) => left.delete(address.toLowerCase()))
  const to = take(mail.to)
  const cc = take(mail.cc)
  return { to, cc, bcc: [...left.values()].map((address) => ({ address })) }
}

/**
 * As one or more mails that each have somebody in `to`, which these APIs demand. Without anyone to show there, a Cc takes
 * the place; recipients of a Bcc get a mail each, since beside one another they would see who else got it.
 */
export function withVisibleRecipient(addressing: Addressing): readonly [Addressing, ...Addressing[]] {
  const { to, cc, bcc } = addressing
  if (to.length > 0) return [addressing]
  if (cc.length > 0) return [{ to: cc, cc: [], bcc }]
  const [first, ...others] = bcc.map((each) => ({ to: [each], cc: [], bcc: [] }))
  return first === undefined ? [addressing] : [first, ...others]
}

export function addressesOf({ to, cc, bcc }: Addressing): readonly string[] {
  return [...to, ...cc, ...bcc].map(({ address }) => address)
}

/** `"Ann \"A\" Lee" <ann@mail.test>`: always quoted, so that a comma or a bracket in a name stays part of it. */
export function mailboxText({ address, name }: Address): string {
  if (name === undefined || name === '') return address
  return `"${name.replace(/[\\"]/g, '\\$&')}" <${address}>`
}
