import { writeFile } from 'node:fs/promises'
import { crashPointsPage } from './failure/crash-points/page.ts'

/** Writes docs/crash-points.md from the points and cases in the source; a test compares the two. */
await writeFile(new URL('../docs/crash-points.md', import.meta.url), crashPointsPage())
