import type { Database } from '../db/pool.ts'
import type { Address } from '../message/message.ts'
import { NO_KEYS, type SealError, type Sealer } from '../sealer.ts'
import { findSuppressed } from '../suppression.ts'
import type { Job } from './claims.ts'
import { hasRemote } from './fetching-lane.ts'
import * as queries from './queries.ts'
import { openLoaded } from './sensitive.ts'
import { findTemplates, type Templates } from './templates.ts'

/** Messages to be rendered and routed, with what is known of them. */
export type Readable = {
  readonly messages: readonly queries.AcceptedMessage[]
  readonly templates: Templates
  /** Of their recipients those who get no mail; in lower case. */
  readonly suppressed: ReadonlySet<string>
}

export type Batch = Readable & {
  /** Not even opened: workers died of them. */
  readonly doomed: readonly string[]
  /** This process has no key for them. */
  readonly unreadable: readonly { readonly id: string; readonly fault: SealError }[]
  /** Their attachments have to be fetched before anything else. */
  readonly unfetched: readonly string[]
}

/** A message that was being processed when its worker died, this many times over, is not tried again. */
export const FATAL_DEATHS = 3

/**
 * All that is read before anything is decided, once for the messages of these jobs that still wait: `known`, where somebody has read
 * them already. Throws when the database is away: suppression fails closed.
 */
export async function readBatch(
  { db, sealer = NO_KEYS }: { readonly db: Database; readonly sealer?: Sealer },
  stream: string,
  jobs: readonly Job[],
  known?: readonly queries.LoadedMessage[],
): Promise<Batch> {
  const ids = jobs.flatMap((job) => job.data.ids)
  const loaded = known ?? (await queries.loadAccepted(db, ids))
  const killers = new Set(jobs.filter((job) => job.retryCount >= FATAL_DEATHS).flatMap((job) => job.data.ids))
  const doomed = loaded.filter(({ id }) => killers.has(id)).map(({ id }) => id)
  const { opened, unreadable } = openLoaded(
    sealer,
    loaded.filter(({ id }) => !killers.has(id)),
  )
  const unfetched = await findUnfetched(db, opened)
  const messages = opened.filter(({ id }) => !unfetched.has(id))
  const [templates, suppressed] = await Promise.all([
    findTemplates(db, messages),
    findSuppressed(db, stream, [...new Set(messages.flatMap(recipientsOf))]),
  ])
  return { messages, templates, suppressed, doomed, unreadable, unfetched: [...unfetched] }
}

/** Few messages name any attachment by URL. */
async function findUnfetched(db: Database, batch: readonly queries.AcceptedMessage[]): Promise<Set<string>> {
  const remote = new Set(batch.filter(({ message }) => hasRemote(message)).map(({ id }) => id))
  if (remote.size > 0) for (const id of await queries.findFetched(db, [...remote])) remote.delete(id)
  return remote
}

/** In lower case. */
export function recipientsOf({ message }: queries.AcceptedMessage): string[] {
  return [message.to, message.cc, message.bcc].flatMap((list: readonly Address[]) =>
    list.map(({ address }) => address.toLowerCase()),
  )
}
