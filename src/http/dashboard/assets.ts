import { readFile } from 'node:fs/promises'
import type { Hono } from 'hono'
import { type Asset, assetOf, serveAsset } from '../asset.ts'
import type { DashboardEnv } from './frame.ts'

/** Open to everybody: the page to sign in has to look like one. */
export const ASSETS_PATH = '/dashboard/assets'

/** Files beside this one, or of a package, by the name they are served under. */
const FILES: Readonly<Record<string, { readonly type: string; readonly url: URL }>> = {
  'dashboard.css': { type: 'text/css', url: new URL('dashboard.css', import.meta.url) },
  'icon.svg': { type: 'image/svg+xml', url: new URL('icon.svg', import.meta.url) },
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
