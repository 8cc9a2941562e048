import { Context, Expression } from 'liquidjs'

type Settings = ConstructorParameters<typeof Context>
type Path = Parameters<Context['_get']>[0]
type Values = Generator<unknown, unknown, unknown>

/** More than a person wants to read, and far more than one mistake causes. */
const MAX_MISSING = 50
const MAX_NAME_CHARS = 100
const MAX_STEPS = 20

/**
 * Names of variables that were wanted and not given, each once. What only asks whether a variable is there does not
 * count: the conditions of `if`, `elsif`, `unless` and `case`, and what `default` stands behind.
 */
export class MissingVariables {
  readonly #names = new Set<string>()

  get names(): string[] {
    return [...this.#names]
  }

  add(path: readonly unknown[]): void {
    if (this.#names.size >= MAX_MISSING) return
    const steps = path.slice(0, MAX_STEPS).map((step) => String(step).slice(0, MAX_NAME_CHARS))
    this.#names.add(steps.join('.').slice(0, MAX_NAME_CHARS).toWellFormed())
  }
}

/** The engine's context, which also notes each variable that is read and is not there; null counts as given. */
export class MailContext extends Context {
  readonly #settings: Settings
  readonly #missing: MissingVariables | undefined
  /** Greater than 0 while an expression is evaluated that only asks. */
  asking = 0

  /** Without `missing`, nobody wants to know. */
  constructor(missing: MissingVariables | undefined, ...settings: Settings) {
    super(...settings)
    this.#missing = missing
    this.#settings = settings
  }

  override _get(path: Path): IterableIterator<unknown> {
    const value = super._get(path)
    return this.#missing === undefined ? value : this.#noted(path, value, this.#missing)
  }

  *#noted(path: Path, reading: unknown, missing: MissingVariables): Values {
    const value: unknown = yield reading
    if (value === undefined && this.asking === 0) missing.add(path)
    return value
  }

  /** For a partial: it sees nothing but what it is given, and shares the meters. */
  override spawn(scope: object = {}): MailContext {
    const [, options, rendering, shared] = this.#settings
    return new MailContext(this.#missing, scope, options, rendering, shared)
  }
}

let evaluateChanged = false

/**
 * Tells a MailContext when an expression only asks. The engine knows (it says `lenient`), but acts on it by throwing
 * at the first variable that is missing, and we want them all. It has one class of expressions for all; it is
 * changed at most once in a thread.
 */
export function noteQuestions(): void {
  if (evaluateChanged) return
  evaluateChanged = true
  const evaluate = Expression.prototype.evaluate
  Expression.prototype.evaluate = function (this: Expression, context: Context, lenient?: boolean): Values {
    const values = evaluate.call(this, context, lenient)
    return lenient === true && context instanceof MailContext ? asking(context, values) : values
  }
}

function* asking(context: MailContext, values: Values): Values {
  context.asking += 1
  try {
    return yield* values
  } finally {
    context.asking -= 1
  }
}
