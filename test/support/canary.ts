import type { TestDatabase } from './database.ts'

/**
 * The tables of Sluice and of pg-boss that hold this text in any column of any row: as it is, in upper or lower case,
 * in the bytes of a bytea, or in base64. The catalog says what there is, so a table made tomorrow is looked at too.
 */
export async function tablesWith({ query }: Pick<TestDatabase, 'query'>, canary: string): Promise<string[]> {
  const tables = await query<{ name: string }>(
    `select c.oid::regclass::text as name
     from pg_class c
     where c.relkind = 'r' and c.relnamespace in ('mail'::regnamespace, 'pgboss'::regnamespace)
     order by 1`,
  )
  const forms = [canary, Buffer.from(canary).toString('hex'), ...base64Of(canary)].map((form) =>
    form.toLowerCase(),
  )
  const rows = await query<{ name: string }>(
    tables
      .map(
        ({ name }) =>
          `select '${name}' as name where exists (
             select from ${name} t, unnest($1::text[]) form where strpos(lower(t::text), form) > 0
           )`,
      )
      .join(' union all '),
    [forms],
  )
  return rows.map(({ name }) => name)
}

/** What stays the same of a text's base64 at each of its three alignments. */
function base64Of(text: string): string[] {
  return [0, 1, 2].map((offset) => {
    const encoded = Buffer.from(' '.repeat(offset) + text).toString('base64')
    // The first group holds what stands before, the last one what comes after.
    return encoded.slice(offset === 0 ? 0 : 4, -4)
  })
}
