import type { Config } from './config.ts'
import { ConfigError } from './config.ts'
import type { Database } from './db/pool.ts'

export const DEFAULT_PROVIDER = 'default'

/**
 * Seeds the provider `default` from the environment: the relay of SMTP_URL, or without one the local
 * inbox. Throws a ConfigError when the two disagree in a way that would send mail to the wrong place.
 */
export async function seedDefaultProvider(db: Database, config: Config): Promise<void> {
  const providers = await db.selectFrom('mail.provider').select(['name', 'transport']).execute()
  const existing = providers.find((provider) => provider.name === DEFAULT_PROVIDER)
  if (config.smtpUrl !== undefined) {
    const row = { transport: 'smtp', credentials_env: 'SMTP_URL', base_url: null, options: '{}' }
    await db
      .insertInto('mail.provider')
      .values({ name: DEFAULT_PROVIDER, ...row })
      .onConflict((conflict) => conflict.column('name').doUpdateSet(row))
      .execute()
    return
  }
  if (existing?.transport === 'smtp') {
    throw new ConfigError([
      'SMTP_URL is not set, but provider "default" of this database sends through it; set it, or change the row in mail.provider',
    ])
  }
  if (config.isProduction && (existing !== undefined || providers.length === 0)) {
    throw new ConfigError(['SMTP_URL must be set: the local inbox is refused when NODE_ENV=production'])
  }
  if (providers.length > 0) return
  await db.insertInto('mail.provider').values({ name: DEFAULT_PROVIDER, transport: 'inbox' }).execute()
}
