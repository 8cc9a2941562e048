/**
 * What `npm start` runs: the command line, compiled before if it can be. JavaScript, since this comes before the first TypeScript:
 * once node takes the types out of a file, what it does that with stays, 19 MB in each thread. What is in the cache needs it no more.
 */
import module from 'node:module'
import { fileURLToPath } from 'node:url'

if (!process.features.typescript) {
  process.stderr.write(`Sluice needs Node 24 or newer, and this is ${process.version}\n`)
  process.exit(1)
}
// Where nothing may be written, each start compiles what it reads.
module.enableCompileCache(fileURLToPath(new URL('../node_modules/.cache/compiled', import.meta.url)))
await import('./command-line.ts')
