import { readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { withTables } from './metrics-table.ts'

const HELP = `Usage: npm run metrics:write      write the tables of docs/monitoring.md

They are made of the metrics that a process registers; a test compares them.`

const PAGE = fileURLToPath(new URL('../docs/monitoring.md', import.meta.url))

const { values } = parseArgs({ options: { write: { type: 'boolean' }, help: { type: 'boolean' } } })
if (values.write === true) await writeFile(PAGE, withTables(await readFile(PAGE, 'utf8')))
else {
  console.log(HELP)
  process.exitCode = values.help === true ? 0 : 64
}
