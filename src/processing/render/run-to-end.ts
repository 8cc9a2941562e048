/** As `instanceof` sees it: whatever a generator function of any kind returns, and nothing else. */
function Generating(): void {
  // Never called: it lends its prototype to `instanceof`.
}
Generating.prototype = Object.getPrototypeOf(function* () {
  // Never run.
}).prototype as object

function isGenerator(value: unknown): value is Generator<unknown, unknown, unknown> {
  return value instanceof (Generating as unknown as new () => object)
}

/**
 * What a generator of the engine comes to, when each generator that it waits for is run to its end as well. The engine's own
 * `toValueSync` does the same and looks for three methods on each value that passes, those of a mail's variables too: half
 * of the time that a small mail is rendered in.
 */
export function runToEnd(value: unknown): unknown {
  if (!isGenerator(value)) return value
  let state = value.next()
  for (;;) {
    let passed: unknown = state.value
    if (isGenerator(passed)) {
      try {
        passed = runToEnd(passed)
      } catch (error) {
        state = value.throw(error)
        continue
      }
    }
    if (state.done === true) return passed
    state = value.next(passed)
  }
}
