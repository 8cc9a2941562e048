import { pipeline, Readable } from 'node:stream'
import { type Info, parse } from 'csv-parse'
import { type Context, Hono } from 'hono'
import type { Database } from '../db/pool.ts'
import { ApiError } from '../errors.ts'
import { type AuthEnv, requireScope } from './auth.ts'
import { readPieces } from './body-pieces.ts'
import { csvOf } from './csv.ts'
import type { AppDeps } from './deps.ts'
import { EVERY_STREAM, expirySchema, readAddress, reasonSchema, scopeFault } from './suppression-entry.ts'
import * as queries from './suppression-queries.ts'

const EXPORT_COLUMNS = ['address', 'scope', 'origin', 'reason', 'source', 'created_at', 'expires_at']
const EXPORT_ROWS = 5_000

/** A million lines of the longest addresses, and reasons. */
const MAX_IMPORT_BYTES = 256 * 1_024 * 1_024
const MAX_IMPORT_LINES = 1_000_000
/** Bounds what a quote that is never closed can gather. */
const MAX_LINE_CHARS = 10_000
/** The server gives a request no more time either. */
const PATIENCE = { silenceMs: 30_000, totalMs: 300_000 }
const ROWS_A_STATEMENT = 1_000
const MAX_TOLD_ERRORS = 100

/** What exports of SES, SendGrid, Mailgun and Postmark call their columns, in lower case and letters only. */
const COLUMN_NAMES: ReadonlyMap<string, 'address' | 'scope' | 'reason' | 'expires_at'> = new Map([
  ['address', 'address'],
  ['email', 'address'],
  ['emailaddress', 'address'],
  ['recipient', 'address'],
  ['scope', 'scope'],
  ['reason', 'reason'],
  ['suppressionreason', 'reason'],
  ['error', 'reason'],
  ['expiresat', 'expires_at'],
])

/** The whole list as CSV, read page by page as the client takes it. */
export function exportSuppressions(db: Database, c: Context): Response {
  const encoder = new TextEncoder()
  let after: string | null = null
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(encoder.encode(`${EXPORT_COLUMNS.join(',')}\n`))
    },
    async pull(controller) {
      const rows = await queries.pageOfSuppressions(db, after, EXPORT_ROWS)
      after = rows.at(-1)?.id ?? null
      if (rows.length > 0) controller.enqueue(encoder.encode(csvOf(rows, EXPORT_COLUMNS)))
      if (rows.length < EXPORT_ROWS) controller.close()
    },
  })
  return c.body(body, 200, {
    'Content-Type': 'text/csv; charset=utf-8',
    'Content-Disposition': 'attachment; filename="suppressions.csv"',
  })
}

/** `POST /suppressions/import`, apart from the others because it reads its body as it streams. */
export function suppressionImportRoutes(deps: AppDeps): Hono<AuthEnv> {
  const routes = new Hono<AuthEnv>()
  routes.post('/', requireScope('operate'), (c) => importSuppressions(deps, c))
  return routes
}

type Fault = { readonly line: number; readonly message: string }

/**
 * Puts the good lines on the list, a statement for every thousand, and tells of the others. What was read before a
 * body breaks off stays: repeating the whole is safe.
 */
async function importSuppressions(deps: AppDeps, c: Context<AuthEnv>): Promise<Response> {
  const type = c.req.header('Content-Type') ?? ''
  if (!/^(?:text\/(?:csv|plain)|application\/csv)\b/i.test(type) || c.req.raw.body === null) {
    throw new ApiError(
      'validation_error',
      'The body must be CSV: send the header `Content-Type: text/csv`.',
      { status: 400 },
    )
  }
  const source = `api key ${c.get('caller').name}`.slice(0, 200).toWellFormed()
  const faults: Fault[] = []
  let imported = 0
  let refused = 0
  let chunk: queries.SuppressionEntry[] = []
  const note = (fault: Fault) => {
    refused += 1
    if (faults.length < MAX_TOLD_ERRORS) faults.push(fault)
  }
  const flush = async () => {
    await queries.storeSuppressions(deps.db, chunk)
    imported += chunk.length
    chunk = []
  }
  try {
    for await (const row of readRows(c.req.raw, note)) {
      const entry = entryOf(deps, row, source)
      if (typeof entry === 'string') note({ line: row.line, message: entry })
      else chunk.push(entry)
      if (chunk.length >= ROWS_A_STATEMENT) await flush()
    }
  } finally {
    // What an error names as read is on the list.
    await flush()
  }
  deps.log.info({ imported, refused, source }, 'suppressions imported')
  return c.json({ object: 'suppression_import', imported, refused, errors: faults })
}

type Row = {
  readonly line: number
  readonly address: string
  readonly scope: string
  readonly reason: string
  readonly expires_at: string
}

/** The rows below the header; a file without one is a list of addresses, one a line. */
export async function* readRows(request: Request, note: (fault: Fault) => void): AsyncGenerator<Row> {
  const parser = parse({
    bom: true,
    info: true,
    trim: true,
    relax_column_count: true,
    skip_empty_lines: true,
    max_record_size: MAX_LINE_CHARS,
    skip_records_with_error: true,
    on_skip: (error) => {
      note({ line: Number(error?.lines ?? 0), message: `not CSV: ${error?.code ?? 'unreadable'}` })
      return undefined
    },
  })
  // A body that breaks off ends the parser with its error, which is thrown below.
  pipeline(Readable.from(readPieces(request, PATIENCE)), parser, () => undefined)
  let columns: (string | undefined)[] | undefined
  for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: Info }>) {
    if (info.bytes > MAX_IMPORT_BYTES || info.records > MAX_IMPORT_LINES + 1) {
      throw new ApiError(
        'payload_too_large',
        `An import may have ${MAX_IMPORT_LINES} lines and ${MAX_IMPORT_BYTES} bytes. Those before line ${info.lines} are on the list; send the rest apart.`,
      )
    }
    if (columns === undefined) {
      columns = columnsOf(record)
      if (!isListOfAddresses(record)) continue
    }
    const cells = new Map(columns.map((column, index) => [column, record[index] ?? '']))
    yield {
      line: info.lines,
      address: cells.get('address') ?? '',
      scope: cells.get('scope') ?? '',
      reason: cells.get('reason') ?? '',
      expires_at: cells.get('expires_at') ?? '',
    }
  }
}

function isListOfAddresses(record: readonly string[]): boolean {
  return record[0]?.includes('@') === true
}

function columnsOf(header: readonly string[]): (string | undefined)[] {
  if (isListOfAddresses(header)) return ['address']
  const columns = header.map((name) => COLUMN_NAMES.get(name.toLowerCase().replace(/[^a-z]/g, '')))
  if (columns.includes('address')) return columns
  throw new ApiError(
    'validation_error',
    'The first line names no column `address`, `email` or `EmailAddress`; the others that are read are `scope`, `reason` and `expires_at`.',
  )
}

/** What goes on the list, or why this line does not. */
function entryOf(deps: AppDeps, row: Row, source: string): queries.SuppressionEntry | string {
  // As our own export writes what a spreadsheet would take for a formula.
  const read = readAddress(row.address.replace(/^'(?=[=+@-])/, ''))
  if (!read.ok) return `address: ${read.reason}`
  const scope = row.scope === '' ? EVERY_STREAM : row.scope
  const fault = scopeFault(deps.catalog.current, scope)
  if (fault !== undefined) return `scope: ${fault}`
  const reason = reasonSchema.safeParse(row.reason === '' ? 'import' : row.reason)
  if (!reason.success) return `reason: ${reason.error.issues[0]?.message}`
  const expiry = row.expires_at === '' ? undefined : expirySchema.safeParse(row.expires_at)
  if (expiry?.success === false) return `expires_at: ${expiry.error.issues[0]?.message}`
  return {
    address: read.address,
    scope,
    origin: 'import',
    reason: reason.data,
    source,
    expires_at: expiry?.data ?? null,
  }
}
