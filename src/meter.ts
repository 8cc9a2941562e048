/** Counts what passes through each stage, for `mail.throughput`. */
export type Flow = { readonly stage: string; readonly stream: string; readonly provider: string }
export type Count = Flow & { readonly cameIn: number; readonly wentOut: number }

export class Meter {
  #counts = new Map<string, { flow: Flow; cameIn: number; wentOut: number }>()

  cameIn(flow: Flow, messages: number): void {
    this.#of(flow).cameIn += messages
  }

  wentOut(flow: Flow, messages: number): void {
    this.#of(flow).wentOut += messages
  }

  /** Everything since the last call. */
  drain(): Count[] {
    const drained = [...this.#counts.values()].map(({ flow, ...counts }) => ({ ...flow, ...counts }))
    this.#counts = new Map()
    return drained
  }

  #of(flow: Flow) {
    const key = `${flow.stage} ${flow.stream} ${flow.provider}`
    let entry = this.#counts.get(key)
    if (entry === undefined) {
      entry = { flow, cameIn: 0, wentOut: 0 }
      this.#counts.set(key, entry)
    }
    return entry
  }
}
