/**
 * What a developer writes without a queue, with the same HTTP framework: a request is answered once its mail was sent, or
 * once it is a row of a plain table. `answer` does neither: the most that the framework and the machine allow.
 * `node bare-app-process.ts send|insert|answer <SMTP URL or database's URL>`
 */
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { Pool } from 'pg'
import type { BareAppReport } from './bare-app.ts'
import type { Order } from './order.ts'
import { createSender } from './sender.ts'

/** As many as a process of Sluice opens by default. */
const CONNECTIONS = 12

type Email = { readonly to: readonly string[]; readonly template: { readonly variables: Order['variables'] } }

const [task = '', target = ''] = process.argv.slice(2)
process.on('disconnect', () => process.exit(0))
const take = await open()
const app = new Hono()
app.post('/emails', async (c) => {
  await take(await c.req.json<Email>())
  return c.json({ id: crypto.randomUUID() })
})
serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }, ({ port }) => {
  process.send?.({ port } satisfies BareAppReport)
})

async function open(): Promise<(email: Email) => Promise<unknown>> {
  if (task === 'send') {
    const send = createSender(target)
    return ({ to, template }) => send({ to: to[0] ?? '', variables: template.variables })
  }
  if (task === 'answer') return async () => undefined
  const pool = new Pool({ connectionString: target, max: CONNECTIONS })
  await pool.query('create table if not exists email (id bigserial primary key, message jsonb not null)')
  return (email) =>
    pool.query({ name: 'insert', text: 'insert into email (message) values ($1)', values: [email] })
}
