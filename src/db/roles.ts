import type { Client } from 'pg'
import { SQLSTATE, sqlState } from './sqlstate.ts'

/** `mail_owner` owns the schema; the others are granted what they may do (migrations/0006_roles.sql). */
const ROLES = ['mail_owner', 'mail_service', 'mail_enqueue', 'mail_operator', 'mail_reader'] as const

/**
 * Makes the roles if this user may, and works as the schema's owner from here on, so that whatever user
 * migrates, everything belongs to `mail_owner`. A user who may not create roles goes on as itself.
 */
export async function actAsOwner(
  client: Client,
  log: { warn(fields: object, text: string): void },
): Promise<{ canChangeSchema: boolean }> {
  const owner = await ownerOfSchema(client)
  if (owner === undefined) {
    await createRoles(client)
    await takeRole(client, 'mail_owner', log)
    return { canChangeSchema: true }
  }
  const { rows } = await client.query<{ member: boolean }>(
    "select pg_has_role($1::name, 'member') as member",
    [owner],
  )
  if (rows[0]?.member !== true) return { canChangeSchema: false }
  await createRoles(client)
  await client.query(`set role ${client.escapeIdentifier(owner)}`)
  return { canChangeSchema: true }
}

export function missingRolesAdvice(missing: readonly string[]): string {
  const statements = ['mail_owner', ...missing.filter((role) => role !== 'mail_owner')]
    .map((role) => `create role ${role} nologin;`)
    .join(' ')
  return `this user may not create roles, so everything belongs to it and runs as it; to separate them, an administrator runs: ${statements} and then "npm start -- migrate" again`
}

async function ownerOfSchema(client: Client): Promise<string | undefined> {
  const { rows } = await client.query<{ owner: string }>(
    "select pg_get_userbyid(nspowner) as owner from pg_namespace where nspname = 'mail'",
  )
  return rows[0]?.owner
}

async function createRoles(client: Client): Promise<void> {
  for (const role of ROLES) {
    const { rows } = await client.query('select to_regrole($1) is not null as found', [role])
    if (rows[0]?.found === true) continue
    // Another database of the same server may be migrated at this moment: roles are shared.
    const isRefusal = [SQLSTATE.insufficientPrivilege, SQLSTATE.duplicateObject, SQLSTATE.uniqueViolation]
    if (!(await attempt(client, `create role ${role} nologin`, isRefusal))) continue
  }
  // The service drops to mail_service on each connection, which takes membership. A role is missing where
  // this user may not create it; and the same grant may be made at this moment from another database.
  for (const role of ['mail_owner', 'mail_service']) {
    const isHarmless = [SQLSTATE.insufficientPrivilege, SQLSTATE.undefinedObject, SQLSTATE.uniqueViolation]
    await attempt(client, `grant ${role} to current_user`, isHarmless)
  }
}

async function takeRole(
  client: Client,
  role: string,
  log: { warn(fields: object, text: string): void },
): Promise<void> {
  const { rows } = await client.query<{ member: boolean; database: string }>(
    "select coalesce(pg_has_role(to_regrole($1)::oid, 'member'), false) as member, current_database() as database",
    [role],
  )
  if (rows[0]?.member !== true) return
  const database = client.escapeIdentifier(rows[0].database)
  const granted = await attempt(client, `grant create on database ${database} to ${role}`, [
    SQLSTATE.insufficientPrivilege,
  ])
  const { rows: able } = await client.query<{ able: boolean }>(
    "select has_database_privilege($1, current_database(), 'create') as able",
    [role],
  )
  if (granted && able[0]?.able === true) await client.query(`set role ${role}`)
  else log.warn({ role }, 'may not create schemas in this database; the schema belongs to the migrating user')
}

/** False when the statement was refused with one of the expected codes; anything else is thrown. */
async function attempt(client: Client, statement: string, expected: readonly string[]): Promise<boolean> {
  try {
    await client.query(statement)
    return true
  } catch (error) {
    if (expected.includes(sqlState(error) ?? '')) return false
    throw error
  }
}
