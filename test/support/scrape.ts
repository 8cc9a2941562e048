import assert from 'node:assert/strict'

/** The samples of a scrape, by name and labels as they are printed: `name{a="x"}`. */
export type Samples = ReadonlyMap<string, number>

export function readSamples(text: string): Samples {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(
    lines.map((line) => {
      const end = line.lastIndexOf(' ')
      return [line.slice(0, end), Number(line.slice(end + 1))]
    }),
  )
}

export async function scrape(url: string | undefined): Promise<Samples> {
  const response = await fetch(new URL('/metrics', url))
  assert.equal(response.status, 200)
  assert.match(response.headers.get('Content-Type') ?? '', /^text\/plain; version=0\.0\.4/)
  return readSamples(await response.text())
}
