import type { Client } from 'pg'

/** Schema `mail` as a document: every table, view and function with its comment, read from the catalogs. */
export async function describeSchema(client: Client): Promise<string> {
  const parts = [
    '# The schema',
    'Everything in schema `mail`, as the migrations make it (written by `npm run schema:write`).',
    ...(await describeRelations(client, 'Tables', ['r', 'p'])),
    ...(await describeRelations(client, 'Views', ['v'])),
    ...(await describeFunctions(client)),
  ]
  return `${parts.join('\n\n')}\n`
}

type Relation = {
  oid: number
  name: string
  comment: string | null
  persistence: string
  partition_key: string | null
}

async function describeRelations(client: Client, title: string, kinds: readonly string[]): Promise<string[]> {
  const { rows } = await client.query<Relation>(
    `select c.oid, c.relname as name, obj_description(c.oid, 'pg_class') as comment, c.relpersistence as persistence,
       pg_get_partkeydef(c.oid) as partition_key
     from pg_class c
     where c.relnamespace = 'mail'::regnamespace and c.relkind = any ($1) and not c.relispartition
     order by c.relname`,
    [kinds],
  )
  const sections = []
  for (const relation of rows) {
    const traits = [
      relation.persistence === 'u' ? 'UNLOGGED' : '',
      relation.partition_key === null ? '' : `partitioned by ${relation.partition_key.toLowerCase()}`,
    ].filter(Boolean)
    sections.push(
      [
        `### mail.${relation.name}${traits.length > 0 ? ` (${traits.join(', ')})` : ''}`,
        relation.comment ?? '',
        await describeColumns(client, relation.oid),
        await describeRules(client, relation.oid),
        await describeGrants(client, relation.oid),
      ]
        .filter(Boolean)
        .join('\n\n'),
    )
  }
  return [`## ${title}`, ...sections]
}

async function describeColumns(client: Client, relation: number): Promise<string> {
  const { rows } = await client.query<Record<'name' | 'type' | 'preset' | 'comment', string>>(
    `select a.attname as name, format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end as type,
       coalesce(case when a.attidentity <> '' then 'identity' end, pg_get_expr(d.adbin, d.adrelid), '') as preset,
       coalesce(col_description(a.attrelid, a.attnum), '') as comment
     from pg_attribute a
     left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
     order by a.attnum`,
    [relation],
  )
  const lines = rows.map(
    ({ name, type, preset, comment }) => `| ${[name, type, preset, comment].map(cell).join(' | ')} |`,
  )
  return ['| column | type | default | |', '|---|---|---|---|', ...lines].join('\n')
}

/** Constraints, indexes and triggers. The not-null constraints that Postgres 18 lists stand with the columns. */
async function describeRules(client: Client, relation: number): Promise<string> {
  const { rows } = await client.query<{ rule: string }>(
    `select format('%s: %s', conname, pg_get_constraintdef(oid)) as rule, 1 as rank
     from pg_constraint where conrelid = $1 and contype <> 'n'
     union all
     select pg_get_indexdef(i.indexrelid), 2
     from pg_index i
     where i.indrelid = $1 and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
     union all
     select pg_get_triggerdef(oid), 3 from pg_trigger where tgrelid = $1 and not tgisinternal
     order by rank, rule`,
    [relation],
  )
  return rows.map(({ rule }) => `- \`${rule}\``).join('\n')
}

async function describeGrants(client: Client, relation: number): Promise<string> {
  const { rows } = await client.query<{ grantee: string; rights: string }>(
    `select r.rolname as grantee, string_agg(lower(g.right), ', ' order by g.right) as rights
     from (
       select a.grantee, a.privilege_type as right
       from pg_class c cross join aclexplode(c.relacl) a
       where c.oid = $1
       union all
       select a.grantee, format('%s (%s)', a.privilege_type, string_agg(t.attname, ', ' order by t.attname))
       from pg_attribute t cross join aclexplode(t.attacl) a
       where t.attrelid = $1
       group by a.grantee, a.privilege_type
     ) g
     join pg_roles r on r.oid = g.grantee
     where r.rolname <> 'mail_owner'
     group by r.rolname
     order by r.rolname`,
    [relation],
  )
  return rows.length === 0
    ? ''
    : `Granted: ${rows.map((row) => `${row.grantee} (${row.rights})`).join('; ')}.`
}

async function describeFunctions(client: Client): Promise<string[]> {
  const { rows } = await client.query<
    Record<'signature' | 'result' | 'definer' | 'comment' | 'grantees', string>
  >(
    `select format('mail.%s(%s)', p.proname, pg_get_function_arguments(p.oid)) as signature,
       pg_get_function_result(p.oid) as result,
       case when p.prosecdef then 'runs with its owner''s rights' else '' end as definer,
       coalesce(obj_description(p.oid, 'pg_proc'), '') as comment,
       coalesce((
         select string_agg(r.rolname, ', ' order by r.rolname)
         from aclexplode(p.proacl) a join pg_roles r on r.oid = a.grantee
         where r.rolname <> 'mail_owner'
       ), '') as grantees
     from pg_proc p
     where p.pronamespace = 'mail'::regnamespace
     order by p.proname`,
  )
  const lines = rows.map(({ signature, result, definer, comment, grantees }) =>
    [
      `### ${signature}`,
      `Returns \`${result}\`${definer === '' ? '' : `; ${definer}`}${grantees === '' ? '' : `; for ${grantees}`}.`,
      comment,
    ]
      .filter(Boolean)
      .join('\n\n'),
  )
  return ['## Functions', ...lines]
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}
