import { readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { createApp } from '../src/http/app.ts'
import type { AppDeps } from '../src/http/deps.ts'
import { apiRoutes } from '../src/http/openapi/routes.ts'
import { openApiText } from '../src/http/openapi-file.ts'
import { documentFaults, exampleFaults, routeFaults } from './openapi-rules.ts'

const HELP = `Usage: npm run openapi            check the API's document, and compare it with what is committed
       npm run openapi:write      write it

docs/openapi.json is what GET /openapi.json answers: made of the routes, the schemas that check requests and
answers, and the texts in src/http/openapi/. --check exits with 1 and says what is wrong.`

const FILE = fileURLToPath(new URL('../docs/openapi.json', import.meta.url))

process.exitCode = await main()

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { check: { type: 'boolean' }, write: { type: 'boolean' }, help: { type: 'boolean' } },
  })
  if (values.help === true || values.check === values.write) {
    console.log(HELP)
    return values.help === true ? 0 : 64
  }
  // No request is made, so nothing behind the routes is needed.
  const deps: Partial<AppDeps> = { maxBodyBytes: 1, hasInbox: false }
  const app = createApp(deps as AppDeps)
  const text = openApiText(app)
  const faults = [
    ...routeFaults(apiRoutes(app)),
    ...exampleFaults(),
    ...(await documentFaults(JSON.parse(text) as Record<string, unknown>)),
  ]
  if (values.write === true) await writeFile(FILE, text)
  else if (text !== (await readFile(FILE, 'utf8').catch(() => ''))) {
    faults.push(
      'docs/openapi.json is not what the routes make; run "npm run openapi:write" and look at the diff',
    )
  }
  for (const fault of faults) console.error(fault)
  return faults.length === 0 ? 0 : 1
}
