/**
 * One thread and the jobs that wait for it. Takes in jobs of messages, leaves behind one outcome for each.
 * If the thread is killed or dies on a message, that message fails, its template becomes suspect, and a new thread goes
 * on with those that have no outcome yet; some may be rendered twice, which changes nothing. If it dies outside any
 * message, the job is rejected: no message is to blame. If it dies while it makes text of HTML, the message goes without. If the process dies, nothing was promised yet.
 *
 * A thread with nothing to do is kept, or ended after `keptMs` where that is given: it holds a heap of its own, and another one starts
 * in a tenth of a second.
 *
 * The more urgent job has the thread after at most one message of another; equals take turns. Without that, four hundred
 * messages of a newsletter whose template takes 50 ms would hold up a password reset for twenty seconds.
 */
import { type RenderFailure, RenderPoolError, type TemplateSource } from './contract.ts'
import { KnownSources, PostSize } from './known-sources.ts'
import type { Suspects } from './suspects.ts'
import type { TemplateSize } from './template-size.ts'
import type { Outcome, ThreadMessage, ThreadReport } from './thread-messages.ts'
import { type ThreadEnd, type ThreadOptions, WatchedThread } from './watched-thread.ts'

export type TemplateMessage = {
  readonly source: TemplateSource
  readonly size: TemplateSize
  /** JSON; null asks only whether the template parses. */
  readonly variables: string | null
  readonly derivesText?: boolean
}

/** HTML that a text is to be made of. `key` stands for it where it is remembered. */
export type HtmlMessage = { readonly key: string; readonly html: string }

export type LaneMessage = TemplateMessage | HtmlMessage

export type LaneOptions = ThreadOptions & {
  /** How long a thread without work is kept, counted from its last job. Absent: as long as the lane. */
  readonly keptMs?: number
}

type Job = {
  /** The smallest number goes first. */
  readonly priority: number
  readonly messages: readonly LaneMessage[]
  readonly outcomes: (Outcome | undefined)[]
  readonly done: PromiseWithResolvers<Outcome[]>
}

type Thread = { readonly watched: WatchedThread; readonly known: KnownSources }

/** What the thread was given: places in the job, in the order posted. The first `reported` have their outcome. */
type Posted = { readonly job: Job; readonly places: readonly number[]; reported: number }

/** How long a job has the thread while another one just as urgent waits. */
const TURN_MS = 50
/** While none does: the largest number that the thread can be told. */
const NO_LIMIT_MS = 2 ** 31 - 1
/** Most messages a post: those behind where the thread stops are posted again. */
const MAX_POST_MESSAGES = 100

export class RenderLane {
  readonly #options: LaneOptions
  readonly #suspects: Suspects
  /** Templates and HTML of which no text is made any more, as that once cost a thread its life. */
  readonly #textless: Suspects
  readonly #jobs: Job[] = []
  readonly #ending = new Set<Promise<void>>()
  #thread: Thread | undefined
  #posted: Posted | undefined
  #idleTimer: NodeJS.Timeout | undefined

  /** With `skipsSlow`, messages of suspect templates are skipped, so that they hold up nobody in this lane. */
  constructor(options: LaneOptions, suspects: Suspects, textless: Suspects) {
    this.#options = options
    this.#suspects = suspects
    this.#textless = textless
  }

  /** Resolves to one outcome a message, in order; rejects with a RenderPoolError. */
  run(messages: readonly LaneMessage[], priority: number): Promise<Outcome[]> {
    const done = Promise.withResolvers<Outcome[]>()
    this.#jobs.push({ priority, messages, outcomes: messages.map(() => undefined), done })
    if (this.#posted === undefined) this.#next()
    else this.#thread?.watched.limitTurn(this.#turnOf(this.#posted.job))
    return done.promise
  }

  async stop(error: RenderPoolError): Promise<void> {
    const jobs = this.#jobs.splice(0)
    if (this.#posted !== undefined) jobs.push(this.#posted.job)
    this.#posted = undefined
    this.#dropThread()
    for (const job of jobs) job.done.reject(error)
    await Promise.all(this.#ending)
  }

  /** Starts on the most urgent waiting job that has anything to post. */
  #next(): void {
    this.#posted = undefined
    while (this.#posted === undefined) {
      const job = this.#takeMostUrgent()
      if (job === undefined) {
        this.#endWhenIdle()
        return
      }
      this.#continue(job)
    }
  }

  #endWhenIdle(): void {
    clearTimeout(this.#idleTimer)
    const { keptMs } = this.#options
    if (keptMs !== undefined) this.#idleTimer = setTimeout(() => this.#dropThread(), keptMs).unref()
  }

  /** Of equals the one that waits longest. */
  #takeMostUrgent(): Job | undefined {
    const priority = this.#leastWaiting()
    const index = this.#jobs.findIndex((job) => job.priority === priority)
    return this.#jobs.splice(index, 1)[0]
  }

  #leastWaiting(): number {
    return this.#jobs.reduce((least, job) => Math.min(least, job.priority), Number.POSITIVE_INFINITY)
  }

  /** How long this job may have the thread, by who waits for it. */
  #turnOf({ priority }: Job): number {
    const least = this.#leastWaiting()
    if (least < priority) return 0
    return least === priority ? TURN_MS : NO_LIMIT_MS
  }

  /** Posts what has no outcome yet, or ends the job. */
  #continue(job: Job): void {
    this.#posted = undefined
    const waiting = this.#waiting(job)
    if (waiting.length === 0) {
      job.done.resolve(job.outcomes as Outcome[])
      return
    }
    try {
      this.#thread ??= this.#start()
      this.#post(this.#thread, job, waiting)
    } catch (error) {
      // The system has no thread or no memory to give: the next call may fare better.
      job.done.reject(threadFailed(error))
    }
  }

  #waiting({ messages, outcomes }: Job): number[] {
    const waiting: number[] = []
    messages.forEach((message, place) => {
      if (outcomes[place] !== undefined) return
      const key = keyOf(message)
      if ('html' in message && this.#textless.has(key)) outcomes[place] = { rendered: {} }
      else if (this.#options.skipsSlow && this.#suspects.has(key)) outcomes[place] = { skipped: true }
      else waiting.push(place)
    })
    return waiting
  }

  /** As many of the waiting as one post may carry; the rest follow when they are done. */
  #post({ watched, known }: Thread, job: Job, waiting: readonly number[]): void {
    clearTimeout(this.#idleTimer)
    const size = new PostSize()
    const posted: LaneMessage[] = []
    for (const place of waiting.slice(0, MAX_POST_MESSAGES)) {
      const message = job.messages[place]
      if (message === undefined) break
      if (!('html' in message ? size.admitHtml(message.html) : size.admit(message))) break
      posted.push(message)
    }
    const learn = posted
      .map((message) => ('html' in message ? undefined : known.use(message)))
      .filter((source) => source !== undefined)
    const messages = posted.map((message) => this.#forThread(message))
    this.#posted = { job, places: waiting.slice(0, posted.length), reported: 0 }
    watched.post({ learn, forget: known.trim(size.keys), messages }, this.#turnOf(job))
  }

  #forThread(message: LaneMessage): ThreadMessage {
    if ('html' in message) return { html: message.html }
    const { source, variables, derivesText = false } = message
    return { key: source.key, variables, derivesText: derivesText && !this.#textless.has(source.key) }
  }

  #start(): Thread {
    const watched = new WatchedThread(this.#options, {
      report: (report) => this.#reported(report),
      ended: (end) => this.#ended(end),
    })
    return { watched, known: new KnownSources() }
  }

  #reported({ outcomes, slowKeys, done }: ThreadReport): void {
    for (const key of slowKeys) this.#suspects.add(key)
    const posted = this.#posted
    if (posted === undefined) return
    for (const outcome of outcomes) {
      const place = posted.places[posted.reported]
      if (place !== undefined) posted.job.outcomes[place] = outcome
      posted.reported += 1
    }
    if (done) this.#proceed(posted.job)
  }

  #ended(end: ThreadEnd): void {
    this.#dropThread()
    const posted = this.#posted
    if (posted === undefined) return
    const place = end.position < posted.reported ? undefined : posted.places[end.position]
    const culprit = place === undefined ? undefined : posted.job.messages[place]
    if (place === undefined || culprit === undefined) {
      posted.job.done.reject(threadFailed(end.error))
      this.#next()
      return
    }
    if (end.whileDeriving) {
      this.#textless.add(keyOf(culprit))
    } else {
      posted.job.outcomes[place] = this.#isOnlyLate(end)
        ? { skipped: true }
        : { failure: this.#failureOf(end) }
      if (!('variables' in culprit && culprit.variables === null)) this.#suspects.add(keyOf(culprit))
    }
    this.#proceed(posted.job)
  }

  /** To the end of its like, unless all of it is done. */
  #proceed(job: Job): void {
    this.#posted = undefined
    if (this.#waiting(job).length > 0) this.#jobs.push(job)
    else job.done.resolve(job.outcomes as Outcome[])
    this.#next()
  }

  /** Not the last word where slow ones are skipped: the thread may have waited for a core, and the message be a good one. */
  #isOnlyLate({ cause }: ThreadEnd): boolean {
    return this.#options.skipsSlow && cause === 'stuck'
  }

  #failureOf({ cause, error }: ThreadEnd): RenderFailure {
    if (cause === 'stuck') {
      const reason = `The template was stopped after ${this.#options.hardStopMs} ms on this message`
      return { code: 'template_timeout', reason }
    }
    if (cause === 'out_of_memory') {
      return {
        code: 'template_memory',
        reason: 'The template used all the memory of its thread on this message',
      }
    }
    return { code: 'template_failed', reason: `The thread died on this message: ${error.message}` }
  }

  #dropThread(): void {
    clearTimeout(this.#idleTimer)
    if (this.#thread === undefined) return
    const ending = this.#thread.watched.stop().finally(() => this.#ending.delete(ending))
    this.#ending.add(ending)
    this.#thread = undefined
  }
}

function keyOf(message: LaneMessage): string {
  return 'html' in message ? message.key : message.source.key
}

function threadFailed(cause: unknown): RenderPoolError {
  return new RenderPoolError('render_thread_failed', 'no thread to render with; try again later', { cause })
}
