/** What an expression asks for: enough of PromQL to find the metrics and labels that it names. */
export type Named = {
  readonly metrics: ReadonlySet<string>
  readonly labels: ReadonlyMap<string, Set<string>>
}

const GROUPING = /\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)/g
const SELECTOR = /([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}/g
const KEYWORDS = new Set(['and', 'or', 'unless', 'bool', 'offset', 'inf', 'nan'])

/** The metrics of an expression, and of each the labels that its matchers name. */
export function namedIn(expression: string): Named {
  // Values first: they may hold any sign.
  const bare = expression.replaceAll(/"(?:[^"\\]|\\.)*"/g, '""').replaceAll(/\[[^\]]*\]/g, '')
  const labels = new Map<string, Set<string>>()
  for (const [, metric = '', matchers = ''] of bare.matchAll(SELECTOR)) {
    const names = [...matchers.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)].map(([, name = '']) => name)
    labels.set(metric, new Set([...(labels.get(metric) ?? []), ...names]))
  }
  const words = bare.replaceAll(GROUPING, ' ').replaceAll(/\{[^}]*\}/g, '')
  const metrics = [...words.matchAll(/(?<![\w$.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])/g)].map(
    ([, name = '']) => name,
  )
  return { metrics: new Set(metrics.filter((name) => !KEYWORDS.has(name.toLowerCase()))), labels }
}

/** The labels that an expression groups or joins by. */
export function groupedBy(expression: string): string[] {
  return [...expression.matchAll(GROUPING)].flatMap(([, list = '']) =>
    list
      .split(',')
      .map((label) => label.trim())
      .filter((label) => label !== ''),
  )
}
