import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import type { Scene } from './run.ts'

/**
 * `held`: nothing gets through, in either direction, until `heal`: then all of it arrives, as over a link that was away.
 * `forgotten`: what is sent is swallowed and these connections never come back, as through a firewall or a balancer that
 * dropped its table; connections made after `heal` are well. Nobody is told anything in either case, and keepalives are
 * answered, since it is the proxy that each end is connected to.
 */
export type Silence = 'held' | 'forgotten'

/** By what a connection is for, which Sluice says of itself. */
export type Kind = 'pool' | 'session'

export type SilentProxy = {
  /** The same database, reached through the proxy. */
  readonly url: string
  /** From now on, for the connections there are and for new ones alike. */
  silence(how: Silence, kinds?: readonly Kind[]): void
  heal(): void
  /** Connections that were silenced and that Sluice has not given up yet. */
  silent(): number
}

type Pair = {
  readonly ends: readonly [Socket, Socket]
  kind: Kind | undefined
  silence: Silence | undefined
  readonly swallowed: Buffer[]
}

/** A TCP proxy in front of Postgres that can go silent without closing anything. */
export async function startSilentProxy(
  scene: Pick<Scene, 'after'>,
  databaseUrl: string,
): Promise<SilentProxy> {
  const target = new URL(databaseUrl)
  const pairs = new Set<Pair>()
  let current: { how: Silence; kinds: readonly Kind[] } | undefined
  const apply = (pair: Pair) => {
    if (current === undefined || pair.silence === 'forgotten') return
    // What has not said yet what it is for belongs to nobody, and waits with the others.
    if (pair.kind !== undefined && !current.kinds.includes(pair.kind)) return
    pair.silence = current.how
    if (pair.silence === 'held') for (const end of pair.ends) end.pause()
  }
  const server = createServer({ allowHalfOpen: true }, (near) => {
    const far = connect({ host: target.hostname, port: Number(target.port), allowHalfOpen: true })
    const pair: Pair = { ends: [near, far], kind: undefined, silence: undefined, swallowed: [] }
    pairs.add(pair)
    near.once('close', () => pairs.delete(pair))
    relay(pair, near, far, (first) => {
      pair.kind = kindOf(first)
      apply(pair)
    })
    relay(pair, far, near)
    near.setNoDelay(true)
    far.setNoDelay(true)
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  scene.after(async () => {
    for (const { ends } of pairs) for (const end of ends) end.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  const url = new URL(databaseUrl)
  url.hostname = '127.0.0.1'
  url.port = String((server.address() as AddressInfo).port)
  return {
    url: url.href,
    silence(how, kinds = ['pool', 'session']) {
      current = { how, kinds }
      for (const pair of pairs) apply(pair)
    },
    heal() {
      current = undefined
      for (const pair of pairs) {
        if (pair.silence !== 'held') continue
        pair.silence = undefined
        for (const end of pair.ends) end.resume()
      }
    },
    silent: () => [...pairs].filter(({ silence }) => silence !== undefined).length,
  }
}

function relay(pair: Pair, from: Socket, to: Socket, onFirst?: (bytes: Buffer) => void): void {
  let isFirst = true
  from.on('data', (bytes) => {
    if (isFirst) onFirst?.(bytes)
    isFirst = false
    if (pair.silence === 'forgotten') return
    to.write(bytes)
  })
  // Of a connection that is forgotten the other end hears nothing any more, its end included.
  from.on('end', () => {
    if (pair.silence === undefined) to.end()
    else if (from === pair.ends[0]) from.destroy()
  })
  from.on('error', () => from.destroy())
  from.on('close', () => {
    if (pair.silence === undefined) to.destroy()
  })
}

/** The startup packet is the first that a client without TLS sends: names and values, ended by zeros. */
function kindOf(startup: Buffer): Kind {
  return startup.includes('sluice worker') ? 'session' : 'pool'
}
