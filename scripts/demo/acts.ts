import { setTimeout as delay } from 'node:timers/promises'
import { HTML, order, SUBJECT, TEMPLATE_NAME, TEXT } from '../bench/order.ts'
import { Refusal, type Shop } from './shop.ts'

/** One thing that goes wrong in the sale: what happens, where to see it, and how it is repaired. */
export type Act = {
  readonly title: string
  readonly story: string
  /** Where it shows, in the dashboard and with psql. */
  readonly look: { readonly page: string; readonly query: string }
  readonly repair: {
    readonly how: string
    /** Step by step, in the dashboard and with psql. */
    readonly dashboard: string
    readonly query: string
    run(shop: Shop): Promise<unknown>
    /** Nobody can do it from here, it is the other side's: whether they have been asked to. */
    isAskedFor?(shop: Shop): Promise<boolean>
  }
  begin(shop: Shop, orders: number): Promise<void>
  /** Whether it shows as the story says. */
  hasHappened(shop: Shop, orders: number): Promise<boolean>
  isRepaired(shop: Shop): Promise<boolean>
}

const BATCH = 100
const CALLS_AT_ONCE = 4
/** The provider sends so few a second that this share of the orders is sure to wait. */
const WAITING_SHARE = 0.3
/** So much of the sale waiting is an alert. */
const LAG_SHARE = 0.1
const KNOWN_MS = 30_000

export async function prepare(shop: Shop, orders: number): Promise<void> {
  const { call, sql, api } = shop
  await call('PUT', '/providers/api', {
    transport: 'resend',
    credentials_env: 'API_CREDENTIALS',
    base_url: `http://127.0.0.1:${api.port}`,
  })
  await call('PUT', '/providers/old-relay', {
    transport: 'smtp',
    credentials_env: 'OLD_RELAY_URL',
    breaker_cooldown_cap_s: 10,
  })
  await call('PUT', '/streams/orders', { priority: 4, route: ['api'] })
  await call('PUT', '/streams/receipts', { priority: 5, route: ['old-relay', 'default'] })
  await call('POST', '/templates', {
    name: TEMPLATE_NAME,
    from: 'Example Shop <orders@shop.example>',
    subject: SUBJECT,
    html: HTML,
    text: TEXT,
  })
  await call('POST', `/templates/${TEMPLATE_NAME}/publish`)
  // A sale is over in a minute: tell within seconds what else would wait for a minute of evidence.
  await sql("update mail.stream set backoff_base_s = 2 where name in ('orders', 'receipts')")
  await sql(
    `update mail.alert_rule
     set for_s = 0, clear_for_s = 5,
       threshold = case name when 'lag' then $1::integer else threshold end,
       clear_at = case name when 'lag' then $1::integer / 2 else clear_at end
     where name in ('lag', 'breaker_open')`,
    [Math.ceil(orders * LAG_SHARE)],
  )
  for (const stream of ['orders', 'receipts']) await untilKnown(shop, stream)
}

/** Every process learns of new rows within a second; until then their mail is refused. */
async function untilKnown({ call }: Shop, stream: string): Promise<void> {
  const giveUpAt = Date.now() + KNOWN_MS
  const mail = {
    from: 'shop@shop.example',
    to: 'ann@mail.example',
    subject: 'The sale begins',
    text: 'Soon.',
  }
  for (;;) {
    try {
      await call('POST', '/emails', { ...mail, stream })
      return
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 422 || Date.now() > giveUpAt) throw error
      await delay(100)
    }
  }
}

export const ACTS: readonly Act[] = [
  {
    title: 'The sale begins, and the provider throttles',
    story:
      'The shop hands over all orders in seconds. The provider takes a few hundred a second and answers 429 to the rest.',
    look: {
      page: '/',
      query: 'select stage, stream, provider, ready, oldest_age, out_per_s from mail.queue',
    },
    repair: {
      how: 'Give the stream a second provider: it takes over whenever the first asks to wait.',
      dashboard: '/dashboard/streams/orders, Change the route, to: api, default',
      query: "update mail.stream set route = '{api,default}' where name = 'orders'",
      run: ({ sql }) => sql("update mail.stream set route = '{api,default}' where name = 'orders'"),
    },
    begin: (shop, orders) => sendOrders(shop, { stream: 'orders', from: 0, count: orders }),
    hasHappened: async (shop, orders) =>
      shop.api.refusals() > 0 && (await waiting(shop, 'orders')) > orders * WAITING_SHARE,
    isRepaired: async (shop) => (await routeOf(shop, 'orders')).length > 1,
  },
  {
    title: 'A relay fails',
    story:
      'Receipts go through an old relay, whose disk is full: it answers 421. After five faults its breaker opens, and the next provider of the route takes the mail, with no attempt used.',
    look: {
      page: '/dashboard/alerts',
      query: 'select what, command from mail.alerts_now; select * from mail.provider_status',
    },
    repair: {
      how: 'Ask those who run the relay to make room, and say that you look after it. Nothing else: three probes find out that it is back, and the breaker closes.',
      dashboard: '/dashboard/alerts, I look after it',
      query:
        "select mail.acknowledge(id) from mail.alerts_now where rule = 'breaker_open' and subject = 'old-relay'",
      isAskedFor: async ({ sql }) =>
        (
          await sql(
            "select from mail.alert where rule = 'breaker_open' and subject = 'old-relay' and acknowledged_at is not null",
          )
        ).length > 0,
      run: async ({ oldRelay }) => {
        oldRelay.isBroken = false
      },
    },
    begin: (shop, orders) => {
      shop.oldRelay.isBroken = true
      return sendOrders(shop, { stream: 'receipts', from: orders, count: Math.ceil(orders / 10) })
    },
    hasHappened: async ({ sql }) =>
      (await sql("select from mail.provider_event where provider = 'old-relay' and type = 'breaker_opened'"))
        .length > 0,
    isRepaired: async ({ oldRelay }) => !oldRelay.isBroken,
  },
  {
    title: 'A template breaks',
    story:
      'Somebody renames a field in the template, makes it strict and publishes. Orders that are rendered now become dead letters: all of one template version, all with one code.',
    look: { page: '/dashboard/dead-letters', query: 'select * from mail.dlq_summary' },
    repair: {
      how: 'Roll the template back to version 1 and retry the group.',
      dashboard: `/dashboard/templates, ${TEMPLATE_NAME}, Roll back version 1; /dashboard/dead-letters, the cause, Retry all that match`,
      query: `insert into mail.template_version (template_id, version, subject, html, text, sender, published_at)
            select v.template_id, 3, v.subject, v.html, v.text, v.sender, now()
            from mail.template t join mail.template_version v on v.template_id = t.id and v.version = 1
            where t.name = '${TEMPLATE_NAME}';
            select mail.dlq_retry('{"template": "${TEMPLATE_NAME}"}', 10000)`,
      run: async ({ call, sql }) => {
        await call('POST', `/templates/${TEMPLATE_NAME}/rollback`, { version: 1 })
        await sql('select * from mail.dlq_retry($1::jsonb, 10000)', [{ template: TEMPLATE_NAME }])
      },
    },
    begin: async (shop, orders) => {
      // What is still to be rendered would break as well.
      while (await isRendering(shop)) await delay(100)
      const html = HTML.replaceAll('customer.street', 'customer.address.street')
      await shop.call('PATCH', `/templates/${TEMPLATE_NAME}`, { html, strict: true })
      await shop.call('POST', `/templates/${TEMPLATE_NAME}/publish`)
      await sendOrders(shop, { stream: 'orders', from: orders * 2, count: brokenOrders(orders) })
    },
    hasHappened: async (shop, orders) => (await deadLetters(shop)) >= brokenOrders(orders),
    isRepaired: async (shop) => (await deadLetters(shop)) === 0,
  },
]

function brokenOrders(orders: number): number {
  return Math.min(500, Math.ceil(orders / 10))
}

type Sending = { readonly stream: string; readonly from: number; readonly count: number }

/** As an app under load does it: batches of a hundred, a few at once. */
async function sendOrders({ call }: Shop, { stream, from, count }: Sending): Promise<void> {
  let next = from
  const sendSome = async () => {
    while (next < from + count) {
      const [first, last] = [next, Math.min(next + BATCH, from + count)]
      next = last
      const mails = Array.from({ length: last - first }, (_, index) => orderMail(first + index, stream))
      await call('POST', '/emails/batch', mails)
    }
  }
  await Promise.all(Array.from({ length: CALLS_AT_ONCE }, sendSome))
}

function orderMail(n: number, stream: string) {
  const { to, variables } = order(n)
  return { to, stream, template: { id: TEMPLATE_NAME, variables }, tags: [{ name: 'kind', value: 'order' }] }
}

/** What a shop sends besides: a password reset and a receipt each second until told to stop. Resolves with the resets' ids. */
export async function sendOthers({ call }: Shop, stop: AbortSignal): Promise<string[]> {
  const to = 'ann@mail.example'
  const ids: string[] = []
  while (!stop.aborted) {
    const { id } = (await call('POST', '/emails', {
      from: 'Example Shop <accounts@shop.example>',
      to,
      stream: 'transactional',
      priority: 0,
      subject: 'Reset your password',
      text: 'https://shop.example/reset/0123',
    })) as { id: string }
    ids.push(id)
    await call('POST', '/emails', {
      from: 'Example Shop <accounts@shop.example>',
      to,
      stream: 'receipts',
      subject: 'Your receipt',
      text: 'Thank you.',
    })
    await delay(1_000, undefined, { signal: stop }).catch(() => undefined)
  }
  return ids
}

async function waiting({ sql }: Shop, stream: string): Promise<number> {
  const [row] = await sql<{ waiting: string }>(
    'select coalesce(sum(ready + deferred + in_flight), 0) as waiting from mail.depth where stream = $1',
    [stream],
  )
  return Number(row?.waiting)
}

async function isRendering({ sql }: Shop): Promise<boolean> {
  const rows = await sql(
    "select from mail.message where status = 'accepted' and template is not null limit 1",
  )
  return rows.length > 0
}

async function routeOf({ sql }: Shop, stream: string): Promise<string[]> {
  const [row] = await sql<{ route: string[] }>('select route from mail.stream where name = $1', [stream])
  return row?.route ?? []
}

async function deadLetters({ sql }: Shop): Promise<number> {
  const [row] = await sql<{ dead: string }>('select count(*) as dead from mail.dlq')
  return Number(row?.dead)
}
