import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { eventually } from './eventually.ts'

const PIPE_COMMAND = fileURLToPath(new URL('../../scripts/postfix-bounce', import.meta.url))

/** Why no Postfix can be started here; undefined when one can. */
export function postfixObstacle(): string | undefined {
  if (process.getuid?.() !== 0) return 'a Postfix of our own can only be started as root'
  if (spawnSync('postconf', ['-d', 'mail_version']).status !== 0) return 'Postfix is not installed'
  return spawnSync('curl', ['--version']).status === 0 ? undefined : 'curl is not installed'
}

export type Postfix = {
  readonly host: string
  /** What it logged so far. */
  log(): Promise<string>
  /** Points the pipe at Sluice, or elsewhere. */
  writePipeConfig(config: string): Promise<void>
  /** Tries mail that waits again now. */
  flush(): void
}

export type PostfixOptions = {
  /** Of these domains only `ann` has a mailbox; who else there is gets a bounce afterwards. */
  readonly lateDomain: string
  /** Here the others are refused at RCPT. */
  readonly strictDomain: string
  /** Mail to it goes through scripts/postfix-bounce. */
  readonly bounceDomain: string
}

/** A Postfix with a configuration, queue and port of its own on loopback, which knows no other host. Stops with the test. */
export async function startPostfix(t: TestContext, options: PostfixOptions): Promise<Postfix> {
  const directory = await mkdtemp(join(tmpdir(), 'sluice-postfix-'))
  // Its daemons and the pipe run as other users.
  await chmod(directory, 0o755)
  const port = await freePort()
  const pipeConfig = join(directory, 'pipe.conf')
  await writeConfiguration(directory, port, pipeConfig, options)

  const config = join(directory, 'etc')
  const master = spawn('postfix', ['-c', config, 'start-fg'], { stdio: 'ignore' })
  const ended = once(master, 'exit')
  t.after(async () => {
    spawnSync('postfix', ['-c', config, 'stop'])
    await ended
    await rm(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
  })
  const log = () => readFile(join(directory, 'log'), 'utf8').catch(() => '')
  await eventually('Postfix listens', async () => {
    if (master.exitCode !== null) throw new Error(`Postfix ended with ${master.exitCode}:\n${await log()}`)
    return (await log()).includes('daemon started')
  })
  return {
    host: `127.0.0.1:${port}`,
    log,
    writePipeConfig: async (text) => {
      await writeFile(pipeConfig, text)
      await chmod(pipeConfig, 0o644)
    },
    flush: () => {
      spawnSync('postqueue', ['-c', config, '-f'])
    },
  }
}

async function writeConfiguration(
  directory: string,
  port: number,
  pipeConfig: string,
  { lateDomain, strictDomain, bounceDomain }: PostfixOptions,
): Promise<void> {
  for (const name of ['etc', 'queue', 'data', 'mailboxes']) await mkdir(join(directory, name))
  spawnSync('chown', ['postfix', join(directory, 'data')])
  spawnSync('chown', ['nobody', join(directory, 'mailboxes')])
  const command = join(directory, 'postfix-bounce')
  await copyFile(PIPE_COMMAND, command)
  await chmod(command, 0o755)
  const uid = spawnSync('id', ['-u', 'nobody']).stdout.toString().trim()
  const gid = spawnSync('id', ['-g', 'nobody']).stdout.toString().trim()
  const main = {
    compatibility_level: '3.6',
    queue_directory: join(directory, 'queue'),
    data_directory: join(directory, 'data'),
    maillog_file: join(directory, 'log'),
    maillog_file_prefixes: directory,
    myhostname: 'mx.postfix.test',
    mydestination: '',
    mynetworks: '127.0.0.0/8',
    inet_interfaces: '127.0.0.1',
    inet_protocols: 'ipv4',
    smtpd_peername_lookup: 'no',
    disable_dns_lookups: 'yes',
    // Nothing leaves this machine.
    default_transport: 'error:no other host is known here',
    relay_domains: bounceDomain,
    transport_maps: `inline:{ ${bounceDomain}=sluice-bounce: }`,
    'sluice-bounce_destination_recipient_limit': '1',
    virtual_mailbox_domains: `${lateDomain} ${strictDomain}`,
    virtual_mailbox_maps: `inline:{ ann@${lateDomain}=ann/ ann@${strictDomain}=ann/ }`,
    virtual_mailbox_base: join(directory, 'mailboxes'),
    virtual_minimum_uid: '1',
    virtual_uid_maps: `static:${uid}`,
    virtual_gid_maps: `static:${gid}`,
    smtpd_relay_restrictions: 'permit_mynetworks, reject',
    smtpd_recipient_restrictions: `check_recipient_access inline:{ ${strictDomain}=reject_unlisted_recipient }`,
    smtpd_reject_unlisted_recipient: 'no',
    minimal_backoff_time: '1s',
  }
  await writeFile(
    join(directory, 'etc', 'main.cf'),
    Object.entries(main)
      .map(([name, value]) => `${name} = ${value}\n`)
      .join(''),
  )
  await writeFile(join(directory, 'etc', 'master.cf'), services(port, command, pipeConfig))
}

/** Service, type, private, unprivileged, chroot, wakeup, process limit, command. */
function services(port: number, command: string, pipeConfig: string): string {
  return `127.0.0.1:${port} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
flush unix n - n 1000? 0 flush
showq unix n - n - - showq
proxymap unix - - n - - proxymap
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
sluice-bounce unix - n n - 2 pipe
  flags=DORq user=nobody argv=${command} ${pipeConfig}
`
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}
