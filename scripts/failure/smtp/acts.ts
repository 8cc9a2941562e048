import type { Act, Talk } from './hostile-relay.ts'

/** What a relay does beside answering. */

export const hangUp: Act = ({ socket }: Talk) => socket.end()
export const reset: Act = ({ socket }: Talk) => socket.resetAndDestroy()
export const resetSoon: Act = ({ socket }: Talk) => setImmediate(() => socket.resetAndDestroy())
/** With the next bytes, so that what was said before has been heard. */
export const resetWhenAsked: Act = ({ socket }: Talk) => socket.once('data', () => socket.resetAndDestroy())
export const nonsenseWhenAsked: Act = (talk: Talk) =>
  talk.socket.once('data', () => talk.write('nonsense\r\n'))
export const keep: Act = (talk: Talk) => talk.keep()
export const takeContent: Act = (talk: Talk) => talk.takeContent()

/** Digits that begin an answer, without end. */
export const trickle: Act = (talk: Talk) => {
  const timer = setInterval(() => talk.write('2'), 100)
  talk.socket.once('close', () => clearInterval(timer))
}

export const readSlowly: Act = ({ socket }: Talk) => {
  socket.pause()
  const timer = setInterval(() => {
    socket.resume()
    setImmediate(() => socket.pause())
  }, 20)
  socket.once('close', () => clearInterval(timer))
}

/** A byte a second: it will not come to the end of anything in time. */
export const readByteByByte: Act = ({ socket }: Talk) => {
  socket.pause()
  const timer = setInterval(() => socket.read(1), 1_000)
  socket.once('close', () => clearInterval(timer))
}

export const LONG_LINE = 'x'.repeat(200_000)
export const ENDLESS = (code: string) => `${code}-more\r\n`.repeat(20_000)
