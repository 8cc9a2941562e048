import type { Context } from 'hono'
import { entityTag, isFresh } from './entity-tag.ts'

/** A file of a page: held in memory, and known to browsers by its tag. */
export type Asset = {
  readonly bytes: Uint8Array<ArrayBuffer>
  readonly tag: string
  readonly type: string
}

export function assetOf(type: string, bytes: Uint8Array): Asset {
  return { bytes: Uint8Array.from(bytes), tag: entityTag(bytes), type: `${type}; charset=utf-8` }
}

/** 304 for whoever has these bytes; asked for each time, so that a new version shows at once. */
export function serveAsset(c: Context, { bytes, tag, type }: Asset): Response {
  c.header('ETag', tag)
  c.header('Cache-Control', 'no-cache')
  if (isFresh(c, tag)) return c.body(null, 304)
  c.header('Content-Type', type)
  return c.body(bytes)
}
