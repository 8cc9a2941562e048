import { missingRolesAdvice } from '../db/roles.ts'
import { type Finding, ok, problem, warning } from './finding.ts'
import type { Reader } from './reader.ts'
import { listed } from './words.ts'

/** Who owns what, who the service works as, and whether the grants of the last migration are still there. */

const NAME = 'roles'
const AGAIN = 'npm start -- migrate grants everything again'

type Roles = {
  readonly login: string
  readonly owner: string
  readonly missing: string[]
  readonly may_serve: boolean
  readonly is_owner: boolean
  readonly is_open: boolean
}

export async function checkRoles(reader: Reader): Promise<Finding[]> {
  const [roles] = await reader.ask<Roles>(`/* doctor.roles */
    select
      session_user::text as login,
      pg_get_userbyid(n.nspowner)::text as owner,
      array(
        select r from unnest(array['mail_owner', 'mail_service', 'mail_enqueue', 'mail_operator', 'mail_reader']) r
        where to_regrole(r) is null
      ) as missing,
      coalesce(pg_has_role(session_user, to_regrole('mail_service')::oid, 'member'), false) as may_serve,
      pg_has_role(session_user, n.nspowner, 'member') as is_owner,
      has_schema_privilege('public', n.oid, 'usage') as is_open
    from pg_namespace n
    where n.nspname = 'mail'`)
  if (roles === undefined) return []
  const findings = [loginOf(roles)]
  if (roles.is_open) {
    findings.push(warning('grants', 'every user of the server may use schema mail', AGAIN))
  }
  // Whoever may not enter the schema may not ask about what is in it.
  if (roles.may_serve || roles.is_owner) findings.push(await checkGrants(reader))
  return findings
}

function loginOf({ login, owner, missing, may_serve: mayServe, is_owner: isOwner }: Roles): Finding {
  if (missing.length > 0) {
    const found = `${listed(missing)} missing: what they separate is done by ${owner}`
    return warning(NAME, found, missingRolesAdvice(missing))
  }
  if (!mayServe && !isOwner) {
    return problem(NAME, `${login} may not work as mail_service`, `grant mail_service to ${login}`)
  }
  if (!mayServe) {
    const found = `the service runs with all rights of ${login}, which owns the schema`
    return warning(NAME, found, `grant mail_service to ${login}`)
  }
  return ok(NAME, `${login} works as mail_service; ${owner} owns the schema`)
}

/** What each role cannot do without. A restore without roles, or a table made by hand, leaves it out. */
async function checkGrants({ ask }: Reader): Promise<Finding> {
  const lacks = await ask<{ role: string; what: string }>(`/* doctor.grants */
    select 'mail_service' as role, c.oid::regclass::text as what
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('mail', 'pgboss') and to_regrole('mail_service') is not null and (
      c.relkind in ('r', 'p', 'v') and not has_table_privilege('mail_service', c.oid, 'select')
      or c.relkind in ('r', 'p') and c.oid <> 'mail.migration'::regclass
        and not has_table_privilege('mail_service', c.oid, 'insert')
    )
    union all
    select wanted.role, wanted.what
    from (values
      ('mail_enqueue', 'insert into mail.outbox'),
      ('mail_operator', 'mail.dlq_retry'),
      ('mail_reader', 'mail.queue')
    ) as wanted (role, what)
    where to_regrole(wanted.role) is not null and not case wanted.role
      when 'mail_enqueue' then has_column_privilege(wanted.role, 'mail.outbox', 'message', 'insert')
      when 'mail_operator' then has_function_privilege(wanted.role, 'mail.dlq_retry(uuid)', 'execute')
      else has_table_privilege(wanted.role, 'mail.queue', 'select')
    end
    order by 1, 2`)
  if (lacks.length === 0) return ok('grants', 'each role may do what it is for')
  return problem(
    'grants',
    `not granted: ${listed(lacks.map(({ role, what }) => `${what} to ${role}`))}`,
    AGAIN,
  )
}
