/**
 * See provider.ts: as little of each API as its documentation allows. Requests are read and counted, never checked: the
 * tests do that, with stand-ins that know every rule.
 */
import { createServer, type IncomingMessage } from 'node:http'
import { buffer } from 'node:stream/consumers'
import type { ApiName, ProviderOrder, ProviderReport } from './provider.ts'

type Answer = {
  readonly mails: number
  readonly status: number
  readonly id?: string
  readonly body?: unknown
}

let mails = 0
let requests = 0
let wanted = Number.POSITIVE_INFINITY

const ANSWERS: Readonly<Record<ApiName, (path: string, body: Buffer) => Answer>> = {
  // Twilio's "Mail Send": 202 and an id in a header.
  sendgrid: () => ({ mails: 1, status: 202, id: `m-${mails}` }),
  // "Send a single email", "Send batch emails": a result for each.
  postmark: (path, body) => {
    const result = (n: number) => ({ ErrorCode: 0, Message: 'OK', MessageID: `m-${mails + n}` })
    if (!path.endsWith('/batch')) return { mails: 1, status: 200, body: result(0) }
    const count = countOf(body)
    return { mails: count, status: 200, body: Array.from({ length: count }, (_, n) => result(n)) }
  },
  // "Send email", "Send batch emails".
  resend: (path, body) => {
    const sent = (n: number) => ({ id: `m-${mails + n}` })
    if (!path.endsWith('/batch')) return { mails: 1, status: 200, body: sent(0) }
    const count = countOf(body)
    return { mails: count, status: 200, body: { data: Array.from({ length: count }, (_, n) => sent(n)) } }
  },
}

function countOf(body: Buffer): number {
  return (JSON.parse(body.toString()) as unknown[]).length
}

function tell(report: ProviderReport): void {
  process.send?.(report)
}

function tellWhenReached(): void {
  if (mails < wanted) return
  wanted = Number.POSITIVE_INFINITY
  tell({ kind: 'reached', atNs: String(process.hrtime.bigint()), mails, requests })
}

const [api = '', answersAfterMs = '0'] = process.argv.slice(2)
const answerOf = ANSWERS[api as ApiName]

async function answer(request: IncomingMessage): Promise<Answer> {
  const given = answerOf(request.url ?? '', await buffer(request))
  requests += 1
  mails += given.mails
  return given
}

const server = createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
  const { status, id, body } = await answer(request)
  const finish = () => {
    const headers = { 'content-type': 'application/json', ...(id !== undefined && { 'x-message-id': id }) }
    response.writeHead(status, headers).end(body === undefined ? '' : JSON.stringify(body))
    tellWhenReached()
  }
  if (answersAfterMs === '0') finish()
  else setTimeout(finish, Number(answersAfterMs))
})
process.on('message', ({ count }: ProviderOrder) => {
  wanted = count
  tellWhenReached()
})
process.on('disconnect', () => process.exit(0))
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') tell({ kind: 'listening', port: address.port })
})
