/** What holds resources until its end: a test, or a failure run. */
export type Scope = {
  /** Called at the end, whatever happened. */
  after(close: () => unknown): void
  /** A line for whoever reads the result. */
  diagnostic(line: string): void
}
