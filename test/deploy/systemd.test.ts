/** docs/deploy/systemd: units that systemd understands and that start what is there. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { access, constants, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { parseEnv, promisify } from 'node:util'
import { EXIT_CONFIG } from '../../src/commands/exit.ts'
import { makeTestDirectory } from '../support/database.ts'
import { GIVE_UP_MS, readDeployed } from './settings.ts'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const FOLDER = join(ROOT, 'docs/deploy/systemd')
const INSTALLED = '/opt/sluice'
const UNITS = ['sluice-api.service', 'sluice-worker@.service'] as const

/** systemd passes over keys that it does not know, or finds in the wrong section, with a word in the journal. */
const KEYS: Readonly<Record<string, readonly string[]>> = {
  Unit: ['Description', 'Documentation', 'Wants', 'After', 'StartLimitIntervalSec'],
  Service: [
    ...['Type', 'DynamicUser', 'User', 'WorkingDirectory', 'Environment', 'EnvironmentFile', 'ExecStart'],
    ...['Restart', 'RestartSec', 'RestartPreventExitStatus', 'TimeoutStopSec', 'KillMode', 'UMask'],
    ...['AmbientCapabilities', 'CapabilityBoundingSet', 'LockPersonality', 'NoNewPrivileges'],
    ...['PrivateDevices', 'PrivateTmp', 'PrivateUsers', 'ProtectClock', 'ProtectControlGroups'],
    ...['ProtectHome', 'ProtectHostname', 'ProtectKernelLogs', 'ProtectKernelModules'],
    ...['ProtectKernelTunables', 'ProtectProc', 'ProtectSystem', 'RemoveIPC', 'RestrictAddressFamilies'],
    ...['RestrictNamespaces', 'RestrictRealtime', 'RestrictSUIDSGID', 'SystemCallArchitectures'],
    ...['SystemCallErrorNumber', 'SystemCallFilter'],
  ],
  Install: ['WantedBy'],
}

/** By section and key; a key that comes more than once has its values in a row. */
type Unit = Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>

async function readUnit(file: string): Promise<Unit> {
  const unit: Record<string, Record<string, string[]>> = {}
  let section = ''
  for (const line of (await readFile(join(FOLDER, file), 'utf8')).split('\n')) {
    if (line === '' || line.startsWith('#')) continue
    const heading = /^\[(\w+)\]$/.exec(line)?.[1]
    if (heading !== undefined) {
      section = heading
      unit[section] = {}
      continue
    }
    const [, key, value] = /^(\w+)=(.*)$/.exec(line) ?? []
    assert.ok(key !== undefined && value !== undefined, `${file}: "${line}" is no assignment`)
    assert.ok(KEYS[section]?.includes(key), `${file}: [${section}] has no key ${key}`)
    unit[section] = { ...unit[section], [key]: [...(unit[section]?.[key] ?? []), value] }
  }
  return unit
}

/** One value of a key that comes once. */
function only(unit: Unit, section: string, key: string): string {
  const [value, ...others] = unit[section]?.[key] ?? []
  assert.ok(value !== undefined && others.length === 0, `${section}.${key} is there once`)
  return value
}

/** What the process starts with: a setting of the file goes before one of the unit. */
async function environmentOf(unit: Unit, instance: string): Promise<Readonly<Record<string, string>>> {
  const own = only(unit, 'Service', 'Environment')
    .replaceAll('%i', instance)
    .split(' ')
    .map((assignment) => assignment.split('=') as [string, string])
  const shared = parseEnv(await readFile(join(FOLDER, 'sluice.env.example'), 'utf8'))
  return { ...Object.fromEntries(own), ...(shared as Record<string, string>) }
}

test('units have known keys, and differ only in what they run', async () => {
  const [api, worker] = await Promise.all(UNITS.map(readUnit))
  assert.ok(api && worker)
  const alike = ({ Service = {} }: Unit) => ({ ...Service, Environment: [] })
  assert.deepEqual(alike(api), alike(worker))
  assert.equal(only(api, 'Service', 'EnvironmentFile'), '/etc/sluice/sluice.env')
  // V8 could not run a line of JavaScript with it.
  assert.equal(api.Service?.MemoryDenyWriteExecute, undefined)
})

test('each process starts with settings that exist, and ports of its own', async () => {
  const [api, worker] = await Promise.all(UNITS.map(readUnit))
  assert.ok(api && worker)
  const environments = [
    await environmentOf(api, ''),
    await environmentOf(worker, '1'),
    await environmentOf(worker, '9'),
  ]
  const configs = environments.map(readDeployed)
  assert.deepEqual(
    configs.map(({ roles }) => [...roles]),
    [['api'], ['worker'], ['worker']],
  )
  assert.ok(configs.every(({ isProduction }) => isProduction))
  const ports = environments.map(({ SLUICE_METRICS_PORT: port }) => Number(port))
  assert.equal(new Set(ports).size, 3)
  assert.ok(ports.every((port) => Number.isInteger(port) && port < 65_536))
})

test('node is started itself, has time to finish, and is not restarted where that would not help', async () => {
  for (const file of UNITS) {
    const unit = await readUnit(file)
    const [program = '', ...args] = only(unit, 'Service', 'ExecStart').split(' ')
    assert.ok(program.startsWith(`${INSTALLED}/`))
    assert.equal(only(unit, 'Service', 'WorkingDirectory'), INSTALLED)
    await access(join(ROOT, program.slice(INSTALLED.length)), constants.X_OK)
    assert.deepEqual(args, ['--max-semi-space-size=8', 'src/main.js'])
    await access(join(ROOT, args[1] ?? ''))
    const { stopTimeoutMs } = readDeployed(await environmentOf(unit, '1'))
    assert.ok(Number(only(unit, 'Service', 'TimeoutStopSec')) * 1_000 >= stopTimeoutMs + GIVE_UP_MS)
    assert.equal(only(unit, 'Service', 'RestartPreventExitStatus'), String(EXIT_CONFIG))
  }
})

/** Undefined where systemd is not installed. */
async function analyze(args: readonly string[]): Promise<string | undefined> {
  try {
    const { stdout, stderr } = await promisify(execFile)('systemd-analyze', [...args])
    return stdout + stderr
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    const { stdout, stderr } = error as { stdout?: string; stderr?: string }
    assert.fail(`systemd-analyze ${args.join(' ')}: ${stdout}${stderr}`)
  }
}

/** The units as they would be installed with this checkout in place of /opt/sluice. */
async function install(t: TestContext): Promise<string[]> {
  const directory = await makeTestDirectory(t)
  return Promise.all(
    UNITS.map(async (file) => {
      const installed = join(directory, file.replace('@', '@1'))
      const text = await readFile(join(FOLDER, file), 'utf8')
      await writeFile(installed, text.replaceAll(INSTALLED, ROOT.replace(/\/$/, '')))
      return installed
    }),
  )
}

test('systemd itself finds nothing wrong with them', async (t) => {
  const version = await analyze(['--version'])
  if (version === undefined) {
    t.skip('no systemd-analyze here')
    return
  }
  const installed = await install(t)
  // Units of the machine itself that these refer to may have faults of their own.
  const words = (await analyze(['verify', '--man=no', ...installed])) ?? ''
  assert.deepEqual(
    words.split('\n').filter((line) => line.includes('sluice-')),
    [],
  )
  // Offline since version 250; from 0 (sandboxed) to 100.
  if (Number(/^systemd (\d+)/.exec(version)?.[1]) < 250) return
  await analyze(['security', '--offline=true', '--threshold=20', ...installed])
})
