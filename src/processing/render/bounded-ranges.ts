import { Expression, type Liquid, Token, Tokenizer, TokenKind, type ValueToken } from 'liquidjs'
import { MAX_RANGE_END } from './limits.ts'
import { RenderStop } from './meters.ts'

// No template can name it: an identifier has no space.
const RANGE_END = 'range end'

/** The engine has one tokenizer class for all; it is changed at most once in a thread. */
let tokenizerChanged = false

/**
 * Makes both ends of every `(a..b)` a bounded number. The engine only limits how far the ends are apart, and counts
 * up by 1 in a loop that never ends where adding 1 changes nothing, as in `(9007199254740992..9007199254740994)`:
 * the array it fills would abort the process. It has no setting or hook for this, so each end is rewritten, as it is
 * parsed, into a filtered value.
 */
export function boundRanges(engine: Liquid): void {
  engine.registerFilter(RANGE_END, rangeEnd)
  if (tokenizerChanged) return
  tokenizerChanged = true
  const readGroupOrRange = Tokenizer.prototype.readGroupOrRange
  Tokenizer.prototype.readGroupOrRange = function (this: Tokenizer) {
    const token = readGroupOrRange.call(this)
    if (token !== undefined && 'lhs' in token) {
      token.lhs = bounded(token.lhs)
      token.rhs = bounded(token.rhs)
    }
    return token
  }
}

/** `end | range end`, in the shape the engine's evaluator knows as a filtered value. */
class BoundedEnd extends Token {
  readonly initial: Expression
  readonly filters = [{ name: RANGE_END, args: [] }]

  constructor(end: ValueToken) {
    super(TokenKind.FilteredValue, end.input, end.begin, end.end, end.file)
    this.initial = new Expression([end])
  }
}

function bounded(end: ValueToken): ValueToken {
  return new BoundedEnd(end) as unknown as ValueToken
}

function rangeEnd(value: unknown): number {
  const end = Number(value)
  if (Math.abs(end) > MAX_RANGE_END) {
    throw new RenderStop('template_memory', `a range ends beyond ${MAX_RANGE_END}`)
  }
  return end
}
