/**
 * What every command starts with: the command line, compiled before if it can be. JavaScript, since it comes before the first
 * TypeScript: once Node has taken the types out of one file, what it does that with stays in memory, 19 MB a thread. A file in the
 * cache does not need it.
 */
import module from 'node:module'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'

if (Number.parseInt(process.versions.node, 10) < 24) {
  process.stderr.write(
    `Sluice needs Node 24, and this is ${process.version}: \`npm start\` finds the one that it brings.\n`,
  )
  // EXIT_CONFIG of commands/exit.ts, which this Node may not be able to read.
  process.exit(78)
}

// Collects when the heap has grown by half, where V8 would wait for up to three times what lives (docs/performance.md).
// Before the cache, which is not shared between flags.
setFlagsFromString('--heap-growing-percent=50')
// Where nothing may be written, each start compiles what it reads.
module.enableCompileCache(fileURLToPath(new URL('../node_modules/.cache/compiled', import.meta.url)))
await import('./command-line.ts')
