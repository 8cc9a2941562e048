import manifest from '../package.json' with { type: 'json' }

/** Of this checkout; processes of two versions may share a database for as long as a deployment takes. */
export const VERSION: string = manifest.version
