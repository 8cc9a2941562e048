/** What the source may not contain: another way to compare secrets, a shell. */
import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { before, test } from 'node:test'

const SRC = new URL('../../src/', import.meta.url)

const sources = new Map<string, string>()
before(async () => {
  for (const file of await readdir(SRC, { recursive: true })) {
    if (!file.endsWith('.ts') || file === 'db/types.ts') continue
    const source = await readFile(new URL(file, SRC), 'utf8')
    sources.set(file, source.replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, ''))
  }
  assert.ok(sources.size > 200)
})

/** Every line that the pattern fits, as `file: line`. */
function find(pattern: RegExp): string[] {
  return [...sources].flatMap(([file, source]) =>
    source
      .split('\n')
      .filter((line) => pattern.test(line))
      .map((line) => `${file}: ${line.trim()}`),
  )
}

const SECRET = /(?:secret|token|signature|proof|password|passwd|hmac|apiKey|formToken|hash|hashes)$/i
/** Comparisons of words that sound like secrets, and what they are. */
const HARMLESS: Readonly<Record<string, string>> = {
  "unsubscribe-links.ts: if (bytes.length <= TAG_BYTES + ID_BYTES || bytes.toString('base64url') !== token) return undefined":
    'both sides are what was brought: whether it is spelt as we would spell it',
}

test('secrets are compared in one way alone', () => {
  assert.deepEqual(
    find(/timingSafeEqual/).map((line) => line.split(':')[0]),
    ['same-secret.ts', 'same-secret.ts'],
  )
  const equals = find(/\.equals\(|Buffer\.compare\(|\.localeCompare\(/)
  assert.deepEqual(
    equals.filter((line) => !line.includes('fingerprint')),
    [],
    'a fingerprint of a message is no secret; anything else is compared by isSameSecret',
  )
  const operand = String.raw`([\w$.?![\]]+(?:\([^()]*\))?)`
  const compared = new RegExp(`${operand}\\s*[!=]==?\\s*${operand}`, 'g')
  const suspicious = [...sources].flatMap(([file, source]) =>
    source.split('\n').flatMap((line) =>
      [...line.matchAll(compared)]
        .filter(([, left = '', right = '']) => {
          // Whether there is one at all, and what kind of token a parser found, tells nothing of a secret.
          const isKnown = [left, right].some((side) =>
            /^(?:undefined|null|true|false|\d+)$|^TokenType\.|^typeof\b|\.length$/.test(side),
          )
          return !isKnown && [left, right].some((side) => SECRET.test(side))
        })
        .map(() => `${file}: ${line.trim()}`),
    ),
  )
  assert.deepEqual(
    suspicious.filter((line) => HARMLESS[line] === undefined),
    [],
  )
})

test('the scan sees a comparison that leaks', () => {
  sources.set(
    'made-up.ts',
    'if (given.formToken === session.formToken) return\n  if (sign(text) !== header.signature) fail()',
  )
  const found = find(/formToken === |!== header\.signature/)
  sources.delete('made-up.ts')
  assert.equal(found.length, 2)
})

test('programs are started by the embedded Postgres alone, and a shell for one constant script', () => {
  const files = new Set(find(/child_process/).map((line) => line.split(':')[0]))
  for (const file of files) assert.match(file ?? '', /^db\/embedded/)
  const shells = find(/shell: *true|\bexec(?:Sync)?\(\s*['"`]|\/bin\/(?:ba)?sh\b|\bcmd\.exe\b/)
  // Whether another user reaches the paths, which are its arguments; only where root starts the embedded Postgres.
  assert.deepEqual(shells, [
    "db/embedded-account.ts: const asked = spawnSync('/bin/sh', ['-c', script, 'sh', ...pathsDownTo(existing)], {",
  ])
  for (const [file, source] of sources) {
    for (const [call] of source.matchAll(/\b(?:spawn|spawnSync|run|execFile)\((?:[^()]|\([^()]*\))*\)/g)) {
      if (source.includes('child_process'))
        assert.match(call, /\benv: CHILD_ENV\b/, `${file}: our secrets are handed on`)
    }
  }
})

test('no text of a caller becomes code', () => {
  assert.deepEqual(find(/\beval\(|new Function\(|\bvm\.|from 'node:vm'|import\(\s*[^'"`)\s]/), [])
})
