import { readFile } from 'node:fs/promises'
import type { Hono } from 'hono'
import { type Asset, assetOf, serveAsset } from '../asset.ts'
import type { DashboardEnv } from './frame.ts'

/** Open to everybody: the page to sign in has to look like one. */
export const ASSETS_PATH = '/dashboard/assets'

/** Files beside this one, or of a package, by the name they are served under. */
const FILES: Readonly<Record<string, { readonly type: string; readonly url: URL }>> = {
  'dashboard.css': { type: 'text/css', url: new URL('dashboard.css', import.meta.url) },
  'overview.css': { type: 'text/css', url: new URL('overview.css', import.meta.url) },
  'live.js': { type: 'text/javascript', url: new URL('live.js', import.meta.url) },
  'plots.js': { type: 'text/javascript', url: new URL('plots.js', import.meta.url) },
  'uplot.css': { type: 'text/css', url: ofPackage('uplot/dist/uPlot.min.css') },
  'uplot.js': { type: 'text/javascript', url: ofPackage('uplot/dist/uPlot.esm.js') },
  'icon.svg': { type: 'image/svg+xml', url: new URL('icon.svg', import.meta.url) },
}

function ofPackage(path: string): URL {
  return new URL(import.meta.resolve(path))
}

export function addAssets(routes: Hono<DashboardEnv>): void {
  for (const [name, { type, url }] of Object.entries(FILES)) {
    // Kept from the first time on: most processes never show the page.
    let asset: Promise<Asset> | undefined
    routes.get(`${ASSETS_PATH}/${name}`, async (c) => {
      asset ??= readFile(url).then((bytes) => assetOf(type, bytes))
      return serveAsset(c, await asset)
    })
  }
}
