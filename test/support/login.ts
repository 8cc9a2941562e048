import { randomBytes } from 'node:crypto'
import { Client } from 'pg'
import type { TestDatabase } from './database.ts'

/**
 * A session of a user of its own who has this role and nothing else, as an app or a person would: `set role` on an
 * administrator's session would leave the way back open. The user goes with the database.
 */
export async function logInAs(database: TestDatabase, role: string): Promise<Client> {
  const user = `sluice_login_${randomBytes(8).toString('hex')}`
  const password = randomBytes(16).toString('hex')
  await database.query(`create role ${user} login password '${password}' in role ${role}`)
  const url = new URL(database.url)
  url.username = user
  url.password = password
  const client = new Client({ connectionString: url.href })
  database.beforeDrop(async () => {
    await client.end()
    await database.query(`drop owned by ${user}; drop role ${user}`)
  })
  await client.connect()
  return client
}
