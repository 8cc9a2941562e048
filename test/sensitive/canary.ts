import { randomBytes } from 'node:crypto'
import type { TestDatabase } from '../support/database.ts'
import { orderMail } from '../support/service.ts'

/** One word that stands in every part of a message that is secret, and nowhere else. */
export function newCanary(): string {
  return `canary${randomBytes(12).toString('hex')}`
}

export const ENCRYPTION_KEY = `test-key:${randomBytes(32).toString('base64')}`

/** A sensitive message with the canary in every field that is secret. */
export function secretMail(canary: string, changes: Readonly<Record<string, unknown>> = {}) {
  return orderMail({
    sensitive: true,
    subject: `Your code ${canary}`,
    html: `<p>${canary}</p>`,
    text: canary,
    headers: { 'X-Note': canary },
    attachments: [{ filename: `${canary}.txt`, content: Buffer.from(`bytes ${canary}`).toString('base64') }],
    tags: [{ name: 'kind', value: 'reset' }],
    ...changes,
  })
}

/** The tables of ours that hold the word, as text, as bytes or as base64, in any column of any row. */
export async function tablesWith({ query }: TestDatabase, word: string): Promise<string[]> {
  const tables = await query<{ name: string }>(
    `select format('%I.%I', n.nspname, c.relname) as name
     from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname in ('mail', 'pgboss') and c.relkind in ('r', 'm') order by 1`,
  )
  const looks = tables.map(
    ({ name }) =>
      `select '${name}' as name where exists (
        select from ${name} t cross join unnest($1::text[]) needle where strpos(t::text, needle) > 0
      )`,
  )
  const found = await query<{ name: string }>(looks.join(' union all '), [spellingsOf(word)])
  return found.map(({ name }) => name)
}

/** The word itself, its bytes in hex, and the middle of its base64 in each of the three places it can begin at. */
function spellingsOf(word: string): string[] {
  const base64 = [0, 1, 2].map((shift) =>
    Buffer.from(' '.repeat(shift) + word)
      .toString('base64')
      .slice(4, -4),
  )
  return [word, Buffer.from(word).toString('hex'), ...base64]
}
