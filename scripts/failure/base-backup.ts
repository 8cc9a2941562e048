import { execFile } from 'node:child_process'
import { appendFile, chown, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Client } from 'pg'
import { makeTestDirectory } from '../../test/support/database.ts'
import { type KillablePostgres, startKillableIn } from '../../test/support/killable-postgres.ts'
import type { Scene } from './run.ts'

const run = promisify(execFile)

/** Of a server whose backup is taken: the WAL since then stays where a restore finds it. */
export const KEEPS_WAL = { wal_keep_size: '2GB' }

/** A data directory that no server has run on. */
export type BaseBackup = { readonly dataDir: string }

/**
 * A base backup of a running server as its documentation has it (pg_backup_start, copy, pg_backup_stop, backup_label, WAL):
 * what pg_basebackup does, which the embedded binaries lack.
 */
export async function takeBaseBackup(scene: Scene, server: KillablePostgres): Promise<BaseBackup> {
  const dataDir = await makeTestDirectory(scene)
  scene.guard?.watchData(dataDir)
  const [from, to] = [join(server.dataDir, 'cluster'), join(dataDir, 'cluster')]
  const client = new Client({ connectionString: server.url })
  await client.connect()
  try {
    await client.query("select pg_backup_start('run', true)")
    await copyInUse(from, to)
    const { rows } = await client.query<{ labelfile: string }>('select labelfile from pg_backup_stop()')
    for (const name of ['postmaster.pid', 'postmaster.opts', 'pg_wal'])
      await rm(join(to, name), { recursive: true, force: true })
    await copyInUse(join(from, 'pg_wal'), join(to, 'pg_wal'))
    await writeBeside(to, 'backup_label', rows[0]?.labelfile ?? '')
    await run('cp', ['-a', join(server.dataDir, 'connection.json'), dataDir])
  } finally {
    await client.end()
  }
  return { dataDir }
}

/** Files that vanish meanwhile are temporary, or are made again from the WAL, which is copied last. */
async function copyInUse(from: string, to: string): Promise<void> {
  await run('cp', ['-a', from, to]).catch((error: { stderr?: string }) => {
    const others = (error.stderr ?? '')
      .split('\n')
      .filter((line) => line !== '' && !line.endsWith('No such file or directory'))
    if (others.length > 0) throw error
  })
}

/** A server of root's runs as another user. */
async function writeBeside(cluster: string, name: string, text: string): Promise<void> {
  const { uid, gid } = await stat(cluster)
  await writeFile(join(cluster, name), text)
  await chown(join(cluster, name), uid, gid)
}

/** Turns the backup into a point-in-time restore: its server plays the WAL of the original up to there, on a timeline of its own. */
export async function recoverTo(backup: BaseBackup, original: KillablePostgres, lsn: string): Promise<void> {
  const cluster = join(backup.dataDir, 'cluster')
  await writeBeside(cluster, 'recovery.signal', '')
  await appendFile(
    join(cluster, 'postgresql.auto.conf'),
    `restore_command = 'cp "${join(original.dataDir, 'cluster', 'pg_wal')}/%f" "%p"'
recovery_target_lsn = '${lsn}'
recovery_target_action = 'promote'
`,
  )
}

/** Starts a server on the copy; it takes mail as soon as its recovery has ended. */
export async function startRestored(scene: Scene, backup: BaseBackup): Promise<KillablePostgres> {
  return startKillableIn(scene, backup.dataDir)
}
