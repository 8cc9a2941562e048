import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { KillablePostgres } from '../../test/support/killable-postgres.ts'
import type { Scene } from './run.ts'
import { startPostgres } from './sluice.ts'

export type ReachablePostgres = KillablePostgres & { urlAt(host: string): string }

/** A server that listens on another address of this machine besides its own, and lets its user in from there. */
export async function startReachablePostgres(scene: Scene, address: string): Promise<ReachablePostgres> {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-hba-'))
  scene.after(() => rm(dir, { recursive: true, force: true }))
  // Started by root, it runs as another user.
  await chmod(dir, 0o755)
  const hba = join(dir, 'pg_hba.conf')
  await writeFile(hba, 'host all all all scram-sha-256\n', { mode: 0o644 })
  const server = await startPostgres(scene, { listen_addresses: `127.0.0.1,${address}`, hba_file: hba })
  return {
    ...server,
    urlAt(host) {
      const url = new URL(server.url)
      url.hostname = host
      url.searchParams.set('sslmode', 'disable')
      return url.href
    },
  }
}
