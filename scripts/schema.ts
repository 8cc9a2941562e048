import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Client } from 'pg'
import { startEmbeddedPostgres } from '../src/db/embedded.ts'
import { migrate } from '../src/db/migrate.ts'
import { describeSchema } from './schema-text.ts'

const HELP = `Usage: npm run schema            compare what the migrations make with what is committed
       npm run schema:write      write it

Two files come from the migrated database: docs/schema.md, for people, and src/db/types.ts, for Kysely.
--check exits with 1 and names the files that differ.`

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const log = { info: () => undefined, warn: (fields: object, text: string) => console.error(text, fields) }

process.exitCode = await main()

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { check: { type: 'boolean' }, write: { type: 'boolean' }, help: { type: 'boolean' } },
  })
  if (values.help === true || values.check === values.write) {
    console.log(HELP)
    return values.help === true ? 0 : 64
  }
  const dir = await mkdtemp(join(tmpdir(), 'sluice-schema-'))
  // A server started by root runs as another user, who has to pass through.
  await chmod(dir, 0o711)
  try {
    const made = await generate(dir)
    return values.write === true ? await write(made) : await compare(made)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** The generated files by their path in the repository. */
async function generate(dir: string): Promise<Map<string, string>> {
  const settings = { fsync: 'off', full_page_writes: 'off' }
  const server = await startEmbeddedPostgres({ dataDir: join(dir, 'data'), port: 0, log, settings })
  try {
    await migrate({ url: server.url, log })
    return new Map([
      ['docs/schema.md', await readSchema(server.url)],
      ['src/db/types.ts', await generateTypes(server.url, join(dir, 'types.ts'))],
    ])
  } finally {
    await server.stop()
  }
}

async function readSchema(url: string): Promise<string> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    return await describeSchema(client)
  } finally {
    await client.end()
  }
}

async function generateTypes(url: string, file: string): Promise<string> {
  await run(binaryOf('kysely-codegen', 'kysely-codegen'), [
    ...['--dialect', 'postgres', '--url', url, '--out-file', file, '--log-level', 'error'],
    ...['--include-pattern', 'mail.*', '--exclude-pattern', 'mail.*_default'],
    ...['--type-mapping', JSON.stringify({ json: 'unknown', jsonb: 'unknown', interval: 'string' })],
  ])
  // In the house format, so that the committed file is the generated one to the letter.
  const formatted = join(ROOT, 'src/db/types.generated.ts')
  await writeFile(formatted, await readFile(file))
  try {
    await run(binaryOf('@biomejs/biome', 'biome'), ['check', '--write', '--log-level=none', formatted])
    return await readFile(formatted, 'utf8')
  } finally {
    await rm(formatted)
  }
}

async function write(made: ReadonlyMap<string, string>): Promise<number> {
  for (const [file, text] of made) await writeFile(join(ROOT, file), text)
  return 0
}

async function compare(made: ReadonlyMap<string, string>): Promise<number> {
  const stale: string[] = []
  for (const [file, text] of made) {
    const committed = await readFile(join(ROOT, file), 'utf8').catch(() => '')
    if (committed !== text) stale.push(file)
  }
  if (stale.length === 0) return 0
  console.error(
    `not what the migrations make: ${stale.join(', ')}; run "npm run schema:write" and look at the diff`,
  )
  return 1
}

/** The script behind a package's command. */
function binaryOf(name: string, command: string): string {
  const file = createRequire(import.meta.url).resolve(`${name}/package.json`)
  const { bin } = createRequire(import.meta.url)(file) as { bin: string | Record<string, string> }
  return join(dirname(file), typeof bin === 'string' ? bin : (bin[command] ?? ''))
}

async function run(script: string, args: readonly string[]): Promise<void> {
  const child = spawn(process.execPath, [script, ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
    cwd: ROOT,
  })
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error(`${script} ended with ${code}`)
}
