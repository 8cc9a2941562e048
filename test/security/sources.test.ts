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
  const suspicious = [...sources].flatMap(([file, source]) =>
    leaksIn(source).map((line) => `${file}: ${line}`),
  )
  assert.deepEqual(
    suspicious.filter((line) => HARMLESS[line] === undefined),
    [],
  )
})

const OPERAND = String.raw`([\w$.?![\]]+(?:\([^()]*\))?)`
const COMPARED = new RegExp(`${OPERAND}\\s*[!=]==?\\s*${OPERAND}`, 'g')
/** Whether there is one at all, and what kind of token a parser found, tells nothing of a secret. */
const KNOWN = /^(?:undefined|null|true|false|\d+)$|^TokenType\.|^typeof\b|\.length$/

/** Lines that compare something that sounds like a secret with something that is not known to all. */
function leaksIn(source: string): string[] {
  return source.split('\n').flatMap((line) =>
    [...line.matchAll(COMPARED)]
      .filter(([, ...sides]) => !sides.some((side) => KNOWN.test(side)))
      .filter(([, ...sides]) => sides.some((side) => SECRET.test(side)))
      .map(() => line.trim()),
  )
}

test('the scan sees a comparison that leaks, and none where nothing is told', () => {
  const leaks = [
    'if (given.formToken === session.formToken) return',
    'if (sign(text) !== header.signature) fail()',
  ]
  const harmless = ['if (header.signature === undefined) return', 'if (token.length !== 32) fail()']
  assert.deepEqual(leaksIn([...leaks, ...harmless].join('\n')), leaks)
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
