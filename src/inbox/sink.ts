/**
 * The local inbox's SMTP server: takes mail on a loopback port and leaves it in `mail.inbox`.
 * DATA is answered 250 only after the row is committed. If the process dies before that, the sender sees the
 * connection drop and cannot tell; if it dies between commit and answer, a retry shows the mail twice.
 * With the database away every mail is answered 451, and the sink stays up.
 */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { SMTPServer, type SMTPServerDataStream, type SMTPServerSession } from 'smtp-server'
import type { Database } from '../db/pool.ts'
import type { Log } from '../log.ts'
import { summarise, toSingleLine } from './summary.ts'
import { InboxWriter } from './writer.ts'

export type InboxSinkDeps = {
  readonly db: Database
  readonly log: Log
  /** The newest mails that are kept; older ones are deleted as new ones come in. */
  readonly keep?: number
  /** A larger mail is answered 552, which its sender takes as final. */
  readonly maxBytes?: number
}

export type InboxSink = {
  readonly port: number
  /** `smtp://127.0.0.1:<port>` */
  readonly url: string
  /** Stores what has arrived in full, refuses the rest with 421, and closes. Safe to call twice. */
  stop(): Promise<void>
}

const HOST = '127.0.0.1'
const DEFAULT_KEEP = 1000
/** The largest that Sluice accepts: 40 MB of attachments are 55 as base64, beside two bodies of 10 MB. */
const DEFAULT_MAX_BYTES = 80 * 1024 * 1024
/** What all connections together may hold in memory; past it mail is answered 452 until some is stored. */
const MAX_HELD_BYTES = 128 * 1024 * 1024
const MAX_CONNECTIONS = 200
/** RFC 5321 section 4.5.3.1.8 asks for at least 100. */
const MAX_RECIPIENTS = 1000
/** RFC 5321 section 4.5.3.2.7: a server waits at least five minutes for the next command. */
const IDLE_TIMEOUT_MS = 5 * 60 * 1000
/** At stop, a connection in the middle of a mail gets this long before it is told 421. */
const CLOSE_TIMEOUT_MS = 200

const REFUSALS = {
  full: [452, 'Too much mail is waiting to be stored, try again'],
  not_stored: [451, 'The mail could not be stored, try again'],
  stopping: [421, 'The inbox is shutting down'],
} as const

class Refusal extends Error {
  readonly responseCode: number

  constructor(code: keyof typeof REFUSALS, options?: ErrorOptions) {
    const [responseCode, message] = REFUSALS[code]
    super(message, options)
    this.responseCode = responseCode
  }
}

type Taking = {
  readonly writer: InboxWriter
  /** Bytes of all mails that are arriving or not stored yet. */
  heldBytes: number
  readonly storing: Set<Promise<void>>
  stopping: boolean
}

/** Listens on a free loopback port; the address is in the answer. */
export async function startInboxSink(deps: InboxSinkDeps): Promise<InboxSink> {
  const { db, log, keep = DEFAULT_KEEP, maxBytes = DEFAULT_MAX_BYTES } = deps
  const taking: Taking = {
    writer: new InboxWriter({ db, log, keep }),
    heldBytes: 0,
    storing: new Set(),
    stopping: false,
  }
  const server = createServer(taking, maxBytes)
  server.on('error', (error) => log.info({ error }, 'an inbox connection failed'))
  server.listen(0, HOST)
  await once(server.server, 'listening')
  const { port } = server.server.address() as AddressInfo

  let stopped: Promise<void> | undefined
  const stop = async () => {
    taking.stopping = true
    await Promise.allSettled(taking.storing)
    await taking.writer.stop()
    await new Promise<void>((closed) => server.close(closed))
  }
  return {
    port,
    url: `smtp://${HOST}:${port}`,
    stop: () => {
      stopped ??= stop()
      return stopped
    },
  }
}

function createServer(taking: Taking, maxBytes: number): SMTPServer {
  return new SMTPServer({
    name: 'localhost',
    banner: 'Sluice inbox',
    size: maxBytes,
    rejectOversized: true,
    maxClients: MAX_CONNECTIONS,
    maxRecipients: MAX_RECIPIENTS,
    socketTimeout: IDLE_TIMEOUT_MS,
    closeTimeout: CLOSE_TIMEOUT_MS,
    // A reverse look-up asks a name server, which may be slow or absent, about 127.0.0.1.
    disableReverseLookup: true,
    // No certificate could be verified here, and nothing leaves the machine.
    hideSTARTTLS: true,
    disabledCommands: ['STARTTLS'],
    // Whoever signs in may: a program set up for its real relay works here unchanged.
    authOptional: true,
    allowInsecureAuth: true,
    onAuth: (_auth, _session, done) => done(null, { user: 'inbox' }),
    onData: (stream, session, done) => {
      takeMail(taking, stream, session).then(
        () => done(null, 'Stored in the inbox'),
        (cause: unknown) => done(cause instanceof Refusal ? cause : new Refusal('not_stored', { cause })),
      )
    },
  })
}

/** Resolves once the mail is committed; rejects with a `Refusal`, or with the error that kept it out. */
async function takeMail(
  taking: Taking,
  stream: SMTPServerDataStream,
  session: SMTPServerSession,
): Promise<void> {
  const chunks: Buffer[] = []
  let bytes = 0
  let full = false
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      full ||= taking.heldBytes + chunk.length > MAX_HELD_BYTES
      // The rest of a refused mail is read and dropped: SMTP has no way to interrupt a sender.
      if (full || stream.sizeExceeded) continue
      chunks.push(chunk)
      bytes += chunk.length
      taking.heldBytes += chunk.length
    }
    if (taking.stopping) throw new Refusal('stopping')
    if (full) throw new Refusal('full')
    // The server answers 552 by itself.
    if (stream.sizeExceeded) return
    const storing = storeMail(taking.writer, Buffer.concat(chunks, bytes), session)
    taking.storing.add(storing)
    await storing.finally(() => taking.storing.delete(storing))
  } finally {
    taking.heldBytes -= bytes
  }
}

async function storeMail(writer: InboxWriter, raw: Buffer, session: SMTPServerSession): Promise<void> {
  const { mailFrom, rcptTo } = session.envelope
  // Read before any wait: the server empties the session's envelope once the connection goes away.
  const envelope = {
    mailFrom: mailFrom === false ? '' : toSingleLine(mailFrom.address),
    recipients: rcptTo.map(({ address }) => toSingleLine(address)),
  }
  await writer.store({ ...envelope, ...(await summarise(raw)), raw })
}
