/**
 * The thread that renders. Takes in posts of messages, leaves behind reports of outcomes, and writes the position of
 * the message it is on into shared memory, where the lane watches it.
 * It may be killed, or run out of memory, at any point: it holds nothing that the lane cannot send again.
 */
import { flushCompileCache } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'
import { type CompiledTemplate, compile, renderMessage } from './compiled-template.ts'
import type { TemplateSource } from './contract.ts'
import { createEngines } from './engine.ts'
import { MAX_POST_CHARS } from './limits.ts'
import { threadCpuMs } from './meters.ts'
import { textFromHtml } from './text-from-html.ts'
import {
  NO_MESSAGE,
  type Outcome,
  type ThreadMessage,
  type ThreadPost,
  type ThreadReport,
  type ThreadSettings,
} from './thread-messages.ts'

/** What is finished is reported at least this often, so that little is done again after a kill. */
const REPORT_EVERY_MS = 50

const settings = workerData as ThreadSettings
const position = new Int32Array(settings.position)
const engines = createEngines()
const sources = new Map<string, TemplateSource>()
const compiled = new Map<string, CompiledTemplate>()

if (parentPort === null) throw new Error('render-thread.ts runs as a worker thread only')
const lane = parentPort
lane.on('message', (post: ThreadPost) => work(post))
// Now, since a thread that is killed writes nothing at its end.
flushCompileCache()

function work({ learn, forget, messages }: ThreadPost): void {
  for (const key of forget) {
    sources.delete(key)
    compiled.delete(key)
  }
  for (const source of learn) sources.set(source.key, source)

  const slowKeys = new Set<string>()
  let outcomes: Outcome[] = []
  let chars = 0
  const startedAt = performance.now()
  let reportedAt = startedAt
  for (const [index, message] of messages.entries()) {
    if (index > 0 && performance.now() - startedAt >= Atomics.load(position, 2)) break
    Atomics.store(position, 0, index)
    const outcome = settle(message, slowKeys)
    outcomes.push(outcome)
    chars += outputChars(outcome)
    if (chars > MAX_POST_CHARS || performance.now() - reportedAt > REPORT_EVERY_MS) {
      report({ outcomes, slowKeys: [...slowKeys], done: false })
      outcomes = []
      chars = 0
      reportedAt = performance.now()
    }
  }
  Atomics.store(position, 0, NO_MESSAGE)
  report({ outcomes, slowKeys: [...slowKeys], done: true })
}

function report(message: ThreadReport): void {
  lane.postMessage(message)
}

function settle(message: ThreadMessage, slowKeys: Set<string>): Outcome {
  if ('html' in message) return { rendered: textOf(message.html) }
  const { key, variables, derivesText } = message
  if (settings.skipsSlow && slowKeys.has(key)) return { skipped: true }
  const template = compiledOf(key)
  if (variables === null) return 'failure' in template ? template : { rendered: {} }
  const startedCpuMs = threadCpuMs()
  const outcome = renderMessage(template, variables, { startedCpuMs, softStopMs: settings.softStopMs })
  // Compiling is not counted: it happens once, and a large template is not a slow one.
  if (threadCpuMs() - startedCpuMs > settings.slowMs) slowKeys.add(key)
  return derivesText ? withText(outcome) : outcome
}

/** Never a failure: if it costs the thread its life, the lane asks again without. */
function withText(outcome: Outcome): Outcome {
  if (!('rendered' in outcome) || outcome.rendered.html === undefined) return outcome
  if (outcome.rendered.text !== undefined) return outcome
  return { ...outcome, rendered: { ...outcome.rendered, ...textOf(outcome.rendered.html) } }
}

function textOf(html: string): { readonly text?: string } {
  Atomics.store(position, 1, 1)
  const text = textFromHtml(html)
  Atomics.store(position, 1, 0)
  return text === undefined ? {} : { text }
}

function compiledOf(key: string): CompiledTemplate {
  const known = compiled.get(key)
  if (known !== undefined) return known
  const source = sources.get(key)
  if (source === undefined) throw new Error('a message came before its template')
  const template = compile(engines, source)
  compiled.set(key, template)
  return template
}

function outputChars(outcome: Outcome): number {
  if (!('rendered' in outcome)) return 0
  return (outcome.rendered.html?.length ?? 0) + (outcome.rendered.text?.length ?? 0)
}
