import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Router } from 'hono/router'
import { TrieRouter } from 'hono/router/trie-router'
import { KeepingRouter } from '../../src/http/router.ts'

const ROUTES = [
  ['ALL', '/*', 'everywhere'],
  ['ALL', '/emails/*', 'of emails'],
  ['POST', '/emails', 'send'],
  ['GET', '/emails', 'list'],
  ['POST', '/emails/batch', 'send many'],
  ['GET', '/emails/:id', 'one'],
  ['GET', '/:kind{hooks|docs}', 'a kind'],
] as const

test('finds what the router of Hono finds, also when it is asked again', () => {
  const [ours, theirs] = [new KeepingRouter<string>(), new TrieRouter<string>()]
  for (const [method, path, name] of ROUTES) {
    ours.add(method, path, name)
    theirs.add(method, path, name)
  }
  const paths = [
    '/',
    '/emails',
    '/emails/',
    '/emails/batch',
    '/emails/1',
    '/emails/1/2',
    '/hooks',
    '/nothing',
  ]
  for (const again of [false, true]) {
    for (const method of ['GET', 'POST', 'PUT', 'PROPFIND']) {
      for (const path of paths) {
        assert.deepEqual(
          namesFoundBy(ours, method, path),
          namesFoundBy(theirs, method, path),
          `${method} ${path}, again: ${again}`,
        )
      }
    }
  }
})

test('keeps what stands at a path that is a route, and nothing under a path that a caller thought of', () => {
  const router = new KeepingRouter<string>()
  for (const [method, path, name] of ROUTES) router.add(method, path, name)
  assert.equal(router.match('POST', '/emails'), router.match('POST', '/emails'))
  for (const [method, path] of [
    ['GET', '/emails/1'],
    ['GET', '/emails/:id'],
    ['POST', '/nothing'],
    ['PUT', '/emails'],
  ] as const) {
    assert.notEqual(router.match(method, path), router.match(method, path), `${method} ${path}`)
  }
})

test('a route that is added later is found at a path that was asked for before', () => {
  const router = new KeepingRouter<string>()
  router.add('GET', '/emails', 'list')
  assert.deepEqual(namesFoundBy(router, 'GET', '/emails'), ['list'])
  router.add('ALL', '/*', 'everywhere')
  assert.deepEqual(namesFoundBy(router, 'GET', '/emails'), ['list', 'everywhere'])
})

function namesFoundBy(router: Router<string>, method: string, path: string): string[] {
  const [handlers] = router.match(method, path)
  return handlers.map(([name]) => name)
}
