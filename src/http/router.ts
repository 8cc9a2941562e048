import type { Result, Router } from 'hono/router'
import { TrieRouter } from 'hono/router/trie-router'

/** What stands for a part of a path in a pattern. */
const VARIABLE = /[:*?{]/

/**
 * Hono's router for every kind of path, which keeps what it found for those without variables: most requests go to `/emails`.
 * Only under paths that are routes, never under what a caller thought of.
 */
export class KeepingRouter<T> implements Router<T> {
  readonly name = 'KeepingRouter'
  readonly #search = new TrieRouter<T>()
  readonly #plain = new Map<string, Set<string>>()
  readonly #found = new Map<string, Map<string, Result<T>>>()

  add(method: string, path: string, handler: T): void {
    this.#search.add(method, path, handler)
    this.#found.clear()
    if (VARIABLE.test(path)) return
    const plain = this.#plain.get(method) ?? new Set()
    this.#plain.set(method, plain.add(path))
  }

  match(method: string, path: string): Result<T> {
    return this.#found.get(method)?.get(path) ?? this.#find(method, path)
  }

  #find(method: string, path: string): Result<T> {
    const found = this.#search.match(method, path)
    if (this.#plain.get(method)?.has(path)) {
      const ofMethod = this.#found.get(method) ?? new Map()
      this.#found.set(method, ofMethod.set(path, found))
    }
    return found
  }
}
