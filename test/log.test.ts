import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLog, logConsole } from '../src/log.ts'
import { HOSTILE_STRINGS } from './support/hostile-strings.ts'

test('each event is one line of one JSON object, whatever text is in it, with nothing a terminal would obey', () => {
  const lines: string[] = []
  const log = createLog('info', (line) => lines.push(line))
  for (const text of HOSTILE_STRINGS) {
    log.info({ text, [`key ${text}`]: [text], error: Object.assign(new Error(text), { code: text }) }, text)
  }
  assert.equal(lines.length, HOSTILE_STRINGS.length)
  for (const [place, line] of lines.entries()) {
    const text = HOSTILE_STRINGS[place] ?? ''
    assert.match(line, /^\{.*\}\n$/)
    assert.doesNotMatch(line.slice(0, -1), /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/u)
    const { level, msg, ...fields } = JSON.parse(line) as Record<string, unknown>
    // Half of a surrogate pair is no text: it is written as its escape, or as what stands for such.
    if (!text.isWellFormed()) continue
    assert.deepEqual([level, msg, fields.text, fields[`key ${text}`]], ['info', text, text, [text]])
  }
})

test('what libraries print is a line of the log, errors with their code alone', (t) => {
  const lines: string[] = []
  const printed = { ...console }
  t.after(() => Object.assign(console, printed))
  logConsole(createLog('debug', (line) => lines.push(line)))
  console.info('The user aborted a request.')
  console.error(
    Object.assign(new Error('duplicate key (ann@example.net)'), { severity: 'ERROR', code: '23505' }),
  )
  console.error('a\nb', 1)
  const told = lines.map(
    (line) => JSON.parse(line) as { level: string; error: { message: string; code?: string } },
  )
  assert.deepEqual(
    told.map(({ level, error }) => [level, error.message, error.code]),
    [
      ['debug', 'The user aborted a request.', undefined],
      ['warn', 'the database refused a value', '23505'],
      ['warn', 'a\nb 1', undefined],
    ],
  )
})
