import { setTimeout as delay } from 'node:timers/promises'
import type { Slot } from './sluice.ts'

/** One process that was killed: which worker it was (undefined without that role), and when, in Unix milliseconds. */
export type Kill = { readonly worker: number | undefined; readonly at: number }

export type KillOptions = {
  /** How many kills over all slots. */
  readonly count: number
  /** Between the start of a process and its death; somewhere in between, so that every step is hit at some time. */
  readonly pauseMs: readonly [least: number, most: number]
  /** False ends it early: there is nothing left to disturb. */
  readonly isGoing: () => boolean
  readonly isWorker: boolean
}

/** Kills and restarts every slot by itself, again and again. */
export async function killAtRandom(slots: readonly Slot[], options: KillOptions): Promise<Kill[]> {
  const { count, pauseMs, isGoing, isWorker } = options
  const [least, most] = pauseMs
  const kills: Kill[] = []
  let begun = 0
  const haunt = async (slot: Slot) => {
    for (;;) {
      await delay(least + Math.random() * (most - least))
      if (begun >= count || !isGoing()) return
      begun += 1
      const worker = isWorker ? await slot.number() : undefined
      kills.push({ worker, at: await slot.replace('SIGKILL') })
    }
  }
  await Promise.all(slots.map(haunt))
  return kills
}
