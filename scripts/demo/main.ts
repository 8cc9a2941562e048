import { once } from 'node:events'
import { createInterface } from 'node:readline/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { accountOf } from './account.ts'
import { ACTS, type Act, prepare, sendOthers } from './acts.ts'
import { openShop, type Shop } from './shop.ts'

const HELP = `Usage: npm run demo -- [options]

A flash sale, live on the dashboard, with a Sluice and a Postgres of its own in a temporary directory: orders faster
than the provider takes them, a relay that fails, a template that breaks, and how each is repaired.

  --orders N      orders of the sale [20000]
  --rate N        mails a second that the throttling provider takes [300]
  --port N        where the dashboard is; 0 chooses a free one [3000]
  --repair WHO    ask: press Enter for each repair (the default at a terminal)
                  you: wait until you have repaired it yourself, in the dashboard or with psql
                  auto: repair each after ten seconds (the default otherwise)
  --help          show this text

At the end it says what became of every message. The exit code is 0 when none was lost or sent twice.`

const EXIT_USAGE = 64
const POLL_MS = 250
const LOOK_AROUND_MS = 10_000

const REPAIRERS = ['ask', 'you', 'auto'] as const
type Repairer = (typeof REPAIRERS)[number]

process.exitCode = await main()

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      orders: { type: 'string', default: '20000' },
      rate: { type: 'string', default: '300' },
      port: { type: 'string', default: '3000' },
      repair: { type: 'string', default: process.stdin.isTTY ? 'ask' : 'auto' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(HELP)
    return 0
  }
  const [orders, rate, port] = [Number(values.orders), Number(values.rate), Number(values.port)]
  const repairer = REPAIRERS.find((each) => each === values.repair)
  const areCounts = [orders, rate].every((each) => Number.isInteger(each) && each > 0)
  if (!areCounts || !Number.isInteger(port) || repairer === undefined) {
    console.error(HELP)
    return EXIT_USAGE
  }
  return play(await openShop(port, rate), orders, repairer)
}

async function play(shop: Shop, orders: number, repairer: Repairer): Promise<number> {
  const isOver = new AbortController()
  const interrupted = new Promise<'interrupted'>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve('interrupted'))
  })
  try {
    await prepare(shop, orders)
    console.log(`
  dashboard  ${shop.url}/
  API key    ${shop.key}   (to log in)
  database   psql '${shop.databaseUrl}'
`)
    const played = playActs(shop, orders, repairer, isOver)
    if ((await Promise.race([played, interrupted])) === 'interrupted') return 1
    const account = await accountOf(shop, await played)
    console.log(account.text)
    return account.isWhole ? 0 : 1
  } finally {
    isOver.abort()
    await shop.close()
  }
}

/** Returns the ids of the password resets that were sent meanwhile. */
async function playActs(
  shop: Shop,
  orders: number,
  repairer: Repairer,
  isOver: AbortController,
): Promise<string[]> {
  if (repairer !== 'auto') await enter('Log in, then press Enter: the sale begins. ', isOver.signal)
  const resets = sendOthers(shop, isOver.signal)
  // Its own failure is reported when it is awaited, after the acts.
  resets.catch(() => undefined)
  for (const [index, act] of ACTS.entries()) {
    console.log(`${index + 1}. ${act.title}\n   ${act.story}`)
    await act.begin(shop, orders)
    await until(() => act.hasHappened(shop, orders), isOver.signal)
    console.log(`   See it:  ${shop.url}${act.look.page}\n            ${act.look.query};`)
    await repair(shop, act, repairer, isOver.signal)
    console.log('   Repaired.\n')
  }
  console.log('Waiting until everything is sent …')
  await until(() => isSettled(shop), isOver.signal)
  isOver.abort()
  return resets
}

async function repair(shop: Shop, act: Act, repairer: Repairer, signal: AbortSignal): Promise<void> {
  const { how, dashboard, query, isAskedFor, run } = act.repair
  console.log(`   Repair:  ${how}\n            ${dashboard}\n            ${query};`)
  if (repairer === 'ask') await enter('   Press Enter to have it repaired. ', signal)
  if (repairer === 'auto') await delay(LOOK_AROUND_MS, undefined, { signal })
  if (repairer === 'you' && isAskedFor) await until(() => isAskedFor(shop), signal)
  const isLeftToYou = repairer === 'you' && isAskedFor === undefined
  if (!isLeftToYou && !(await act.isRepaired(shop))) await run(shop)
  await until(() => act.isRepaired(shop), signal)
}

/** Where nobody is there to press it, the end of the input will do. */
async function enter(question: string, signal: AbortSignal): Promise<void> {
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  try {
    await Promise.race([terminal.question(question, { signal }), once(terminal, 'close')])
  } finally {
    // Interrupted too: a terminal that is read keeps the process.
    terminal.close()
  }
}

async function isSettled({ sql }: Shop): Promise<boolean> {
  const [row] = await sql<{ waiting: string }>(
    `select count(*) as waiting from mail.message where status in ('accepted', 'scheduled', 'queued', 'sending', 'deferred')`,
  )
  return Number(row?.waiting) === 0
}

async function until(condition: () => Promise<boolean>, signal: AbortSignal): Promise<void> {
  while (!(await condition())) await delay(POLL_MS, undefined, { signal })
}
