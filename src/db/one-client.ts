import { Client, type ClientConfig } from 'pg'
import { DatabaseUnreachableError } from './unreachable.ts'
import { explainTls, verifiedTls } from './verified-tls.ts'

/**
 * A connection of its own, for a few statements. When it breaks, what it is asked fails of that.
 * Throws a DatabaseTlsError or a DatabaseUnreachableError.
 */
export async function openClient(url: string, settings: ClientConfig = {}): Promise<Client> {
  const client = new Client({ connectionString: url, ...verifiedTls(url), ...settings })
  // Without a listener the process would end of it.
  client.on('error', () => undefined)
  await client.connect().catch((error: unknown) => {
    const explained = explainTls(url, error)
    throw explained === error ? new DatabaseUnreachableError(url, error) : explained
  })
  return client
}
