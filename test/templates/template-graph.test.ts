import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { graphFault, MAX_PARTIALS_DEEP } from '../../src/templates/template-graph.ts'

function graphOf(edges: Readonly<Record<string, readonly string[]>>) {
  return new Map(Object.entries(edges))
}

/** t0 uses t1 uses t2 …: so many uses one below the other. */
function chainOf(uses: number) {
  return new Map(Array.from({ length: uses }, (_, n) => [`t${n}`, [`t${n + 1}`]]))
}

describe('the graph of templates', () => {
  it('refuses a cycle, and names it', () => {
    const graph = graphOf({ a: ['x', 'b'], b: ['c'], c: ['a'] })
    assert.match(graphFault(graph, 'a') ?? '', /a → b → c → a/)
    assert.match(graphFault(graph, 'c') ?? '', /c → a → b → c/)
    assert.match(graphFault(graphOf({ a: ['a'] }), 'a') ?? '', /a → a/)
  })

  it('lets the same template be used on several ways', () => {
    assert.equal(graphFault(graphOf({ a: ['b', 'c'], b: ['d'], c: ['d'] }), 'a'), undefined)
  })

  it('is so deep and no deeper, wherever in the chain the template stands', () => {
    for (const name of ['t0', 't5', `t${MAX_PARTIALS_DEEP}`]) {
      assert.equal(graphFault(chainOf(MAX_PARTIALS_DEEP), name), undefined)
      assert.match(graphFault(chainOf(MAX_PARTIALS_DEEP + 1), name) ?? '', /deep/)
    }
  })

  it('is not troubled by a cycle somewhere else', () => {
    assert.equal(graphFault(graphOf({ a: ['b'], b: ['c'], c: ['b'] }), 'a'), undefined)
  })

  it('finds a cycle exactly when there is a way back', () => {
    const name = fc.constantFrom(...'abcdef')
    const graphs = fc.dictionary(name, fc.uniqueArray(name, { maxLength: 3 }), { maxKeys: 6 })
    fc.assert(
      fc.property(graphs, name, (edges, start) => {
        const reached = new Set(edges[start] ?? [])
        for (let size = -1; size !== reached.size; ) {
          size = reached.size
          for (const at of [...reached]) for (const next of edges[at] ?? []) reached.add(next)
        }
        assert.equal(/itself/.test(graphFault(graphOf(edges), start) ?? ''), reached.has(start))
      }),
    )
  })
})
