import type { Catalog, Stream } from '../catalog.ts'
import { dispatchQueue } from '../queue/queues.ts'

/**
 * The queues of a stream that a provider works on now. Mail waits in the queue of the provider it was
 * routed to and is never moved: while that provider may not send, or is not on the route any more, the
 * first one of the route that may comes and takes it from there, and stops when the other is back. A provider
 * that was taken off the route sends nothing of the stream any more, and outside its send windows nobody does.
 */
export function servedQueues(
  catalog: Catalog,
  provider: string,
  stream: Stream,
  isOpen: (provider: string) => boolean,
): string[] {
  const mayLend = (name: string) => catalog.providers.get(name)?.isHeld === false && isOpen(name)
  if (stream.isPaused || stream.opensAt !== null || !stream.route.includes(provider) || !mayLend(provider))
    return []
  const own = dispatchQueue(provider, stream.name)
  if (stream.route.find(mayLend) !== provider) return [own]
  const orphaned = [...catalog.providers.keys()].filter(
    (name) => name !== provider && !(stream.route.includes(name) && mayLend(name)),
  )
  return [own, ...orphaned.map((name) => dispatchQueue(name, stream.name))]
}
