import { type Config, describeSettings, readConfig } from '../../src/config.ts'

const KNOWN = [...describeSettings().matchAll(/^ {2}([A-Z_]+) /gm)].map(([, name = '']) => name)

/** What a process makes of the environment that a deployment file gives it; throws where it would refuse to start. */
export function readDeployed(environment: Readonly<Record<string, string>>): Config {
  const unknown = Object.keys(environment).filter((name) => !KNOWN.includes(name))
  if (unknown.length > 0) throw new Error(`no settings: ${unknown.join(', ')}`)
  return readConfig(Object.fromEntries(Object.entries(environment).filter(([name]) => KNOWN.includes(name))))
}

/** Past its limit a stopping process gives up what hangs: three seconds to settle, two to close, one to end. */
export const GIVE_UP_MS = 6_000
