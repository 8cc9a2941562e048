import { eventually } from '../../../test/support/eventually.ts'
import { performCrashes } from '../postgres-crashes.ts'
import { failureRun } from '../run.ts'
import { missingCompiler, startOnSlowDisk } from '../slow-disk.ts'

/**
 * A sync of the log ends with EIO: Postgres cannot know what is on the disk, ends at once, and recovers. The commit whose
 * client saw an error may be there afterwards: what was acknowledged is, and a repeat under the key finds it.
 */
export const failingFsync = failureRun({
  name: 'failing-fsync',
  promise:
    'a disk that fails in a commit loses no durable answer, and the repeat of what seemed to fail is answered with the same message',
  limitMinutes: 15,
  full: { messages: 10_000, bufferedPerS: 50, kills: 20, workers: 2 },
  short: { messages: 300, bufferedPerS: 50, kills: 1, workers: 1 },
  missing: missingCompiler,
  perform: async (scene, scale) => {
    const { server, disk } = await startOnSlowDisk(scene)
    const crash = async () => {
      await disk.failOnce()
      await eventually('a sync failed', async () => disk.hasFailed())
    }
    return performCrashes(scene, scale, crash, server)
  },
})
