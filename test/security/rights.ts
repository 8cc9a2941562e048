import type { TestDatabase } from '../support/database.ts'

/** In the order of the columns of docs/rights.md. */
export const ROLES = ['mail_service', 'mail_operator', 'mail_reader', 'mail_enqueue', 'public'] as const

/** What a role may do with an object, in words; an object with all that the five may. */
export type Rights = { readonly object: string; readonly rights: readonly string[] }

type Row = { readonly object: string; readonly role: string; readonly rights: string }

/**
 * Every table, view, sequence and function of both schemas with what each role may do, from the catalog. Partitions and
 * the tables of single queues are made at any time; they are looked at together, as `partitions of both schemas`.
 */
export async function readRights({ query }: Pick<TestDatabase, 'query'>): Promise<Rights[]> {
  const rows = await query<Row>(
    `with role as (
       select * from unnest($1::text[]) with ordinality r (role, place)
     ), relation as (
       select
         c.oid, c.relispartition,
         case
           when c.relispartition then 'table'
           when c.relkind = 'v' then 'view'
           when c.relkind = 'S' then 'sequence'
           else 'table'
         end as kind,
         case when c.relispartition then 'partitions of both schemas' else c.oid::regclass::text end as name
       from pg_class c
       where c.relnamespace in ('mail'::regnamespace, 'pgboss'::regnamespace) and c.relkind in ('r', 'p', 'v', 'm', 'S')
     ), relation_rights as (
       select
         relation.name, relation.kind, role.role, role.place, privilege.word, privilege.place as rank,
         case
           when relation.kind <> 'sequence' and has_table_privilege(role.role, relation.oid, privilege.name) then ''
           when relation.kind <> 'sequence' and privilege.by_column then (
             select '(' || string_agg(a.attname, ', ' order by a.attnum) || ')'
             from pg_attribute a
             where a.attrelid = relation.oid and a.attnum > 0 and not a.attisdropped
               and has_column_privilege(role.role, relation.oid, a.attnum, privilege.name)
           )
         end as scope
       from relation
       cross join role
       cross join (values
         (1, 'select', 'reads', true), (2, 'insert', 'adds', true), (3, 'update', 'changes', true),
         (4, 'delete', 'deletes', false), (5, 'truncate', 'empties', false), (6, 'references', 'refers to', true),
         (7, 'trigger', 'sets triggers', false)
       ) privilege (place, name, word, by_column)
       where relation.kind <> 'sequence'
       union all
       select
         relation.name, relation.kind, role.role, role.place, privilege.word, privilege.place,
         case when has_sequence_privilege(role.role, relation.oid, privilege.name) then '' end
       from relation
       cross join role
       cross join (values (1, 'select', 'reads'), (2, 'usage', 'takes numbers'), (3, 'update', 'sets')) privilege (place, name, word)
       where relation.kind = 'sequence'
     )
     select kind || ' ' || name as object, role, string_agg(distinct_rights.words, ', ' order by rank) as rights
     from (
       select kind, name, role, place, rank, word || scope as words
       from relation_rights where scope is not null
       group by kind, name, role, place, rank, word, scope
     ) distinct_rights
     group by kind, name, role
     union all
     select kind || ' ' || name, null, null from relation group by 1
     union all
     select
       case when p.prosecdef then 'definer ' else 'function ' end || p.oid::regprocedure::text,
       role.role,
       case when has_function_privilege(role.role, p.oid, 'execute') then 'calls' end
     from pg_proc p cross join role
     where p.pronamespace in ('mail'::regnamespace, 'pgboss'::regnamespace) and p.prorettype <> 'trigger'::regtype`,
    [ROLES],
  )
  const objects = Map.groupBy(rows, ({ object }) => object)
  return [...objects]
    .map(([object, ofObject]) => ({
      object,
      rights: ROLES.map((role) => ofObject.find((row) => row.role === role)?.rights ?? ''),
    }))
    .toSorted((a, b) => (a.object < b.object ? -1 : 1))
}

/** As it stands in docs/rights.md. */
export function asLine({ object, rights }: Rights): string {
  const [kind = '', ...name] = object.split(' ')
  return `| ${kind} \`${name.join(' ')}\` | ${rights.map((words) => words || '—').join(' | ')} |`
}
