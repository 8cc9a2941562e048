/** Whatever asks a database: of a test, of a run, of a pool. */
export type Queryable = {
  query<Row extends object>(text: string, values?: unknown[]): Promise<Row[]>
}
