import type { SunkMail } from './smtp-sink.ts'

/** The value of a header as it stands, unfolded; undefined when the mail has none. */
export function headerOf({ raw }: SunkMail, name: string): string | undefined {
  const head = raw.toString('latin1').split('\r\n\r\n', 1)[0] ?? ''
  const line = head
    .replaceAll(/\r\n[ \t]+/g, ' ')
    .split('\r\n')
    .find((each) => each.toLowerCase().startsWith(`${name.toLowerCase()}:`))
  return line?.slice(name.length + 1).trim()
}

export function sluiceIdOf(mail: SunkMail): string {
  return headerOf(mail, 'X-Sluice-Id') ?? 'none'
}

/** How many copies of each message arrived, by its id. */
export function copiesOf(mails: readonly SunkMail[]): Map<string, number> {
  const copies = new Map<string, number>()
  for (const mail of mails) copies.set(sluiceIdOf(mail), (copies.get(sluiceIdOf(mail)) ?? 0) + 1)
  return copies
}

export function duplicatesIn(mails: readonly SunkMail[]): string[] {
  return [...copiesOf(mails)].filter(([, copies]) => copies > 1).map(([id]) => id)
}
