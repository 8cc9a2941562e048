import type { SpawnedService } from '../../test/support/service.ts'

/** For processes whose memory is measured: Node's inspector on a free port, and the setting that `npm start` has. */
export const INSPECTED = { NODE_OPTIONS: '--inspect=127.0.0.1:0' }

/** What lives in the heap of a process started with `INSPECTED`, in MB, right after a full collection. */
export async function liveHeapMb(service: SpawnedService): Promise<number> {
  const address = /ws:\/\/127\.0\.0\.1:\d+\/[\w-]+/.exec(service.output())?.[0]
  if (address === undefined) throw new Error('the process was not started with an inspector')
  const socket = new WebSocket(address)
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve, { once: true })
    socket.addEventListener('error', () => reject(new Error('the inspector does not answer')), { once: true })
  })
  try {
    // The first sweeps, the second takes what finalizers have let go.
    await call(socket, 1, 'HeapProfiler.collectGarbage')
    await call(socket, 2, 'HeapProfiler.collectGarbage')
    const { usedSize } = await call<{ usedSize: number }>(socket, 3, 'Runtime.getHeapUsage')
    return usedSize / 1e6
  } finally {
    socket.close()
  }
}

/** One call of the Chrome DevTools Protocol. */
function call<Result>(socket: WebSocket, id: number, method: string): Promise<Result> {
  const answered = Promise.withResolvers<Result>()
  const hear = ({ data }: MessageEvent) => {
    const message = JSON.parse(String(data)) as { id?: number; result: Result }
    if (message.id !== id) return
    socket.removeEventListener('message', hear)
    answered.resolve(message.result)
  }
  socket.addEventListener('message', hear)
  socket.addEventListener('close', () => answered.reject(new Error('the inspected process ended')))
  socket.send(JSON.stringify({ id, method }))
  return answered.promise
}
